//! Where images run: the load driver's decisions for the process driver.

use dunix_ids::NodeId;
use dunix_load::{Load, Wish};
use dunix_processes::{
    ChildDid, ChildQuestion, Decision, NodeLoad, PlaceQuestion, PlaceWish, Placement, Policy,
    Relief,
};
use std::pin::Pin;

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

impl ByLoad {
    /// What is to be done where the process tree asks for `wish`.
    fn wish(&self, wish: PlaceWish) -> Wish {
        match wish {
            PlaceWish::Local => Wish::Local,
            PlaceWish::Policy | PlaceWish::Pin if !self.spread => Wish::Best,
            PlaceWish::Policy | PlaceWish::Pin | PlaceWish::Spread => Wish::Spread,
        }
    }
}

impl Policy for ByLoad {
    fn place(&self, question: &PlaceQuestion) -> Decision {
        let wish = match self.wish(question.wish) {
            Wish::Local => return here("DUNIX_PLACE=local keeps it where it was started"),
            // What a root executes is spread, not the root.
            _ if question.is_root => return here("it was started here from outside"),
            wish => wish,
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

    fn place_child(&self, question: &ChildQuestion) -> Option<Decision> {
        if question.wish == PlaceWish::Pin && question.is_working {
            return None;
        }
        let wish = self.wish(question.wish);
        let placed = self.load.place_child(wish, &question.program, question.is_working)?;
        Some(Decision { placement: Placement::At(placed.node), why: placed.why.to_string() })
    }

    fn may_send_child(&self, program: &[u8]) -> bool {
        self.load.may_send_child(program)
    }

    fn child_did(&self, program: &[u8], what: ChildDid) {
        self.load.child_did(program, what);
    }

    fn load(&self) -> Option<NodeLoad> {
        // In turn means: whatever the load.
        (!self.spread).then(|| self.load.own_load())
    }

    fn relieve(&self) -> Pin<Box<dyn Future<Output = Option<Relief>> + Send + '_>> {
        Box::pin(async move {
            let placed = self.load.relieve().await?;
            Some(Relief { to: placed.node, why: placed.why.to_string() })
        })
    }
}
