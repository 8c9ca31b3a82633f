//! This node's counts in Prometheus' text form (OpenMetrics 1.0).
//!
//! Owns: names and labels of the metrics. Refuses: counting; the drivers do, as things happen.

use dunix_admin_api::NodeInfo;
use dunix_processes::Totals;
use dunix_transport::PeerTraffic;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::sync::atomic::AtomicU64;

/// Names and values of labels.
type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Fraction = Gauge<f64, AtomicU64>;

/// Writes down what is known.
pub(super) fn in_text(node: &NodeInfo, totals: &Totals, peers: &[PeerTraffic]) -> String {
    let mut registry = Registry::with_prefix("dunix");
    register_node(&mut registry, node);
    register_totals(&mut registry, totals);
    register_traffic(&mut registry, peers);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

fn register_node(registry: &mut Registry, node: &NodeInfo) {
    let gauge = |value: u64| {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        gauge
    };
    let fraction = |milli: u32| {
        let gauge = Fraction::default();
        gauge.set(f64::from(milli) / 1000.0);
        gauge
    };
    registry.register("processes", "Processes on this node", gauge(node.processes.into()));
    registry.register("cpus", "CPUs that this node may use", fraction(node.cpus_milli));
    if let Some(load) = node.load_milli {
        registry.register("load", "Runnable processes, averaged", fraction(load));
    }
    let memory = "Memory of the node's machine";
    registry.register_with_unit("memory", memory, Unit::Bytes, gauge(node.memory_bytes_total));
    let free = "Memory that programs could get";
    registry.register_with_unit("memory_free", free, Unit::Bytes, gauge(node.memory_bytes_free));
}

fn register_totals(registry: &mut Registry, totals: &Totals) {
    let execs = [("here", totals.execs_here), ("elsewhere", totals.execs_elsewhere)];
    let execs = execs.map(|(place, count)| (vec![("at", place.to_owned())], count));
    let named = |label: &'static str, (name, count): (&&'static str, &u64)| {
        (vec![(label, (*name).to_owned())], *count)
    };
    let refused = totals.moves_refused.iter().map(|entry| named("reason", entry));
    let calls = totals.doorbell_calls.iter().map(|entry| named("call", entry));
    registry.register("forks", "Children made by fork", counter(totals.forks));
    let help = "Programs started here, and those that this node's processes executed elsewhere";
    registry.register("execs", help, counters(execs));
    let help = "Running processes that moved away";
    registry.register("moves", help, counter(totals.moves_done));
    registry.register("moves_refused", "Moves from here that did not happen", counters(refused));
    registry.register("doorbell_calls", "Calls of guests to the daemon", counters(calls));
}

fn register_traffic(registry: &mut Registry, peers: &[PeerTraffic]) {
    let [messages, message_bytes, streams, stream_bytes]: [Counters; 4] = Default::default();
    let round_trips = Family::<Labels, Fraction>::default();
    for peer in peers {
        let labels = |more: &[(&'static str, &str)]| -> Labels {
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            [("peer", peer.node.to_string())].into_iter().chain(more).collect()
        };
        if let Some(us) = peer.round_trip_us {
            round_trips.get_or_create(&labels(&[])).set(f64::from(us) / 1e6);
        }
        for (topic, traffic) in &peer.topics {
            let topic = format!("{topic:?}").to_lowercase();
            let count = |family: &Counters, direction: &str, count: u64| {
                let labels = labels(&[("topic", &topic), ("direction", direction)]);
                family.get_or_create(&labels).inc_by(count);
            };
            count(&messages, "sent", traffic.messages_sent);
            count(&messages, "received", traffic.messages_received);
            count(&message_bytes, "sent", traffic.message_bytes_sent);
            count(&message_bytes, "received", traffic.message_bytes_received);
            count(&stream_bytes, "sent", traffic.stream_bytes_sent);
            count(&stream_bytes, "received", traffic.stream_bytes_received);
            let labels = labels(&[("topic", &topic)]);
            streams.get_or_create(&labels).inc_by(traffic.streams_opened);
        }
    }
    let bytes = Unit::Bytes;
    registry.register("messages", "Messages, calls and replies with a peer", messages);
    let help = "Payload of messages, calls and replies with a peer";
    registry.register_with_unit("message", help, bytes.clone(), message_bytes);
    registry.register("streams", "Byte streams opened with a peer by either side", streams);
    let help = "Payload of byte streams with a peer";
    registry.register_with_unit("stream", help, bytes, stream_bytes);
    let help = "Last measured round trip to a peer";
    registry.register_with_unit("round_trip", help, Unit::Seconds, round_trips);
}

fn counter(count: u64) -> Counter {
    let counter = Counter::default();
    counter.inc_by(count);
    counter
}

fn counters(entries: impl IntoIterator<Item = (Labels, u64)>) -> Counters {
    let family = Counters::default();
    for (labels, count) in entries {
        family.get_or_create(&labels).inc_by(count);
    }
    family
}
