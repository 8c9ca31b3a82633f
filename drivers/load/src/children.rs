//! Where children go that fork(2) made: habits of their program first, then the policy.

use crate::{ChildDid, Load, Placed, Wish};

impl Load {
    /// Decides at once where a child is to run: before its first instruction (`is_working` false), or
    /// when it has turned out to work by itself. `None`: that is left open.
    #[must_use]
    pub fn place_child(&self, wish: Wish, program: &[u8], is_working: bool) -> Option<Placed> {
        let may = {
            let habits = &mut self.shared.lock().habits;
            if is_working { habits.may_move(program) } else { habits.may_start_away(program) }
        };
        if !may {
            return None;
        }
        let placed = self.decide_now(wish, program).ok()?;
        // One that stays is counted as any that runs here.
        let goes = placed.node != self.shared.mesh.node();
        Some(if goes { self.placed(placed.node, placed.why) } else { placed })
    }

    /// Whether [`Load::place_child`] may send one away that has run nothing.
    #[must_use]
    pub fn may_send_child(&self, program: &[u8]) -> bool {
        self.shared.lock().habits.starts_away(program)
    }

    /// Learns what a child of a program came to.
    pub fn child_did(&self, program: &[u8], what: ChildDid) {
        self.shared.lock().habits.note(program, what);
    }
}
