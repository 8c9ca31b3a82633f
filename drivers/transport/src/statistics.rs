//! What was exchanged with each peer, by topic.

use dunix_ids::NodeId;
use dunix_wire::Topic;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Traffic of one topic with one peer since this node started; bytes are without framing.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TopicTraffic {
    /// Messages, calls and replies.
    pub messages_sent: u64,
    pub messages_received: u64,
    pub message_bytes_sent: u64,
    pub message_bytes_received: u64,
    /// Streams opened by either side.
    pub streams_opened: u64,
    pub stream_bytes_sent: u64,
    pub stream_bytes_received: u64,
}

/// Traffic with one peer since this node started, across its absences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerTraffic {
    pub node: NodeId,
    /// Last measured round trip of the control connection, microseconds; `None` before the first.
    pub round_trip_us: Option<u32>,
    /// In the order of the topics' numbers.
    pub topics: Vec<(Topic, TopicTraffic)>,
}

impl PeerTraffic {
    /// Returns the sum over all topics.
    #[must_use]
    pub fn total(&self) -> TopicTraffic {
        self.topics.iter().fold(TopicTraffic::default(), |sum, (_, topic)| TopicTraffic {
            messages_sent: sum.messages_sent + topic.messages_sent,
            messages_received: sum.messages_received + topic.messages_received,
            message_bytes_sent: sum.message_bytes_sent + topic.message_bytes_sent,
            message_bytes_received: sum.message_bytes_received + topic.message_bytes_received,
            streams_opened: sum.streams_opened + topic.streams_opened,
            stream_bytes_sent: sum.stream_bytes_sent + topic.stream_bytes_sent,
            stream_bytes_received: sum.stream_bytes_received + topic.stream_bytes_received,
        })
    }
}

#[derive(Default)]
struct TopicCounters {
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    message_bytes_sent: AtomicU64,
    message_bytes_received: AtomicU64,
    streams_opened: AtomicU64,
    stream_bytes_sent: AtomicU64,
    stream_bytes_received: AtomicU64,
}

/// Counts as it happens; one for each peer ever seen.
#[derive(Default)]
pub(crate) struct Counters {
    topics: [TopicCounters; Topic::COUNT],
    /// Microseconds plus one; 0 before the first measurement.
    round_trip: AtomicU64,
}

impl Counters {
    fn of(&self, topic: Topic) -> &TopicCounters {
        &self.topics[topic as usize - 1]
    }

    pub(crate) fn count_message_sent(&self, topic: Topic, bytes: usize) {
        let counters = self.of(topic);
        counters.messages_sent.fetch_add(1, Relaxed);
        counters.message_bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn count_message_received(&self, topic: Topic, bytes: usize) {
        let counters = self.of(topic);
        counters.messages_received.fetch_add(1, Relaxed);
        counters.message_bytes_received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn count_stream(&self, topic: Topic) {
        self.of(topic).streams_opened.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_stream_sent(&self, topic: Topic, bytes: u64) {
        self.of(topic).stream_bytes_sent.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn count_stream_received(&self, topic: Topic, bytes: u64) {
        self.of(topic).stream_bytes_received.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn set_round_trip_us(&self, us: u32) {
        self.round_trip.store(u64::from(us) + 1, Relaxed);
    }

    pub(crate) fn read(&self, node: NodeId) -> PeerTraffic {
        let read = |topic| {
            let counters = self.of(topic);
            let traffic = TopicTraffic {
                messages_sent: counters.messages_sent.load(Relaxed),
                messages_received: counters.messages_received.load(Relaxed),
                message_bytes_sent: counters.message_bytes_sent.load(Relaxed),
                message_bytes_received: counters.message_bytes_received.load(Relaxed),
                streams_opened: counters.streams_opened.load(Relaxed),
                stream_bytes_sent: counters.stream_bytes_sent.load(Relaxed),
                stream_bytes_received: counters.stream_bytes_received.load(Relaxed),
            };
            (topic, traffic)
        };
        let topics = (1..=u8::MAX).map_while(Topic::of_byte).map(read).collect();
        let round_trip = self.round_trip.load(Relaxed).checked_sub(1);
        let round_trip_us = round_trip.and_then(|us| u32::try_from(us).ok());
        PeerTraffic { node, round_trip_us, topics }
    }
}
