//! Where images run: the load driver's decisions for the process driver.

use dunix_ids::NodeId;
use dunix_load::{Load, Wish};
use dunix_processes::{PlaceQuestion, PlaceWish, Placement, Policy};

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

impl Policy for ByLoad {
    fn place(&self, question: &PlaceQuestion) -> Placement {
        let wish = match question.wish {
            PlaceWish::Local => return Placement::Here,
            // A root starts where it was asked for; what it executes is spread.
            _ if question.is_root => return Placement::Here,
            PlaceWish::Policy if !self.spread => Wish::Best,
            PlaceWish::Policy | PlaceWish::Spread => Wish::Spread,
        };
        match self.load.place_now(wish) {
            Ok(placed) if placed.node != self.node => Placement::At(placed.node),
            // Only a node that was asked for by name can be missing.
            Ok(_) | Err(_) => Placement::Here,
        }
    }
}
