//! What people may meet is explained to them.

use dunix_wire::processes::Refusal;

#[test]
fn every_refusal_of_a_move_is_documented() {
    let page = include_str!("../../../docs/MOVING.md");
    for name in Refusal::NAMES {
        let row = format!("\n| `{name}` | ");
        assert!(page.contains(&row), "docs/MOVING.md says nothing of {name}");
    }
}
