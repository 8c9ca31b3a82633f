//! `dunix nodes`: the nodes of the fabric.

use super::{
    Failure,
    table::{self, Align, Table},
};
use crate::{
    admin::{client, discovery::Fabric},
    cli::NodesArgs,
};
use dunix_admin_api::{NodeInfo, NodeState};

/// Lists the nodes.
pub async fn run(fabric: &Fabric, args: &NodesArgs) -> Result<(), Failure> {
    table::show(&args.list, || async {
        let nodes = client::nodes(fabric).await?;
        let mut out = Vec::new();
        if args.list.json {
            serde_json::to_writer(&mut out, &nodes).map_err(std::io::Error::from)?;
            out.push(b'\n');
        } else {
            table::print(&lay_out(&nodes), &mut out)?;
        }
        Ok(out)
    })
    .await
}

fn lay_out(nodes: &[NodeInfo]) -> Table {
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("CPUS", Align::Right),
        ("LOAD", Align::Right),
        ("PROCS", Align::Right),
        ("FREE", Align::Right),
        ("MEM", Align::Right),
        ("RTT", Align::Right),
        ("SENT", Align::Right),
        ("RECEIVED", Align::Right),
        ("ADDRESS", Align::Left),
    ]);
    for node in nodes {
        let traffic = &node.traffic;
        table.push(vec![
            mark(node),
            state(node.state).to_owned(),
            milli(node.cpus_milli),
            node.load_milli.map_or_else(|| "?".to_owned(), milli),
            node.processes.to_string(),
            table::bytes(node.memory_bytes_free),
            table::bytes(node.memory_bytes_total),
            round_trip(node),
            table::bytes(traffic.stream_bytes_sent + traffic.message_bytes_sent),
            table::bytes(traffic.stream_bytes_received + traffic.message_bytes_received),
            node.address.clone(),
        ]);
    }
    table
}

/// The name; a star marks the node that holds the tree's authority.
fn mark(node: &NodeInfo) -> String {
    format!("{}{}", node.name, if node.tree_authority { "*" } else { "" })
}

pub(crate) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::Suspect => "suspect",
        NodeState::Draining => "draining",
        NodeState::Down => "down",
    }
}

pub(crate) fn milli(value: u32) -> String {
    format!("{}.{:02}", value / 1000, value % 1000 / 10)
}

fn round_trip(node: &NodeInfo) -> String {
    match node.rtt_us {
        _ if node.answering => "-".to_owned(),
        None => "?".to_owned(),
        Some(us @ 0..=9999) => format!("{us}us"),
        Some(us) => format!("{}ms", us / 1000),
    }
}
