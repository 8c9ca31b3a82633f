//! Where images run: the load driver's decisions for the process driver.

use dunix_ids::NodeId;
use dunix_load::{Load, Wish};
use dunix_processes::{Decision, PlaceQuestion, PlaceWish, Placement, Policy};

/// Places by load, or in turn if the fabric or the process tree asks for it.
pub(super) struct ByLoad {
    node: NodeId,
    load: Load,
    /// The fabric spreads every exec.
    spread: bool,
}

impl ByLoad {
    pub(super) fn new(node: NodeId, load: Load, spread: bool) -> ByLoad {
        ByLoad { node, load, spread }
    }
}

fn here(why: &str) -> Decision {
    Decision { placement: Placement::Here, why: why.to_owned() }
}

impl Policy for ByLoad {
    fn place(&self, question: &PlaceQuestion) -> Decision {
        let wish = match question.wish {
            PlaceWish::Local => return here("DUNIX_PLACE=local keeps it where it was started"),
            // What a root executes is spread, not the root.
            _ if question.is_root => return here("it was started here from outside"),
            PlaceWish::Policy if !self.spread => Wish::Best,
            PlaceWish::Policy | PlaceWish::Spread => Wish::Spread,
        };
        match self.load.place_now(wish, &question.exe_path) {
            Ok(placed) => {
                let away = placed.node != self.node;
                let placement = if away { Placement::At(placed.node) } else { Placement::Here };
                Decision { placement, why: placed.why.to_string() }
            }
            // Only a node that was asked for by name can be missing.
            Err(error) => here(&error.to_string()),
        }
    }
}
