//! What is still to happen, in the order in which it will: by time, and at one time as it was put in.

use std::{collections::BTreeMap, time::Duration};

/// Events of a virtual clock. Two runs that put the same in take the same out.
#[derive(Debug)]
pub struct Queue<E> {
    events: BTreeMap<(Duration, u64), E>,
    serial: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { events: BTreeMap::new(), serial: 0 }
    }
}

impl<E> Queue<E> {
    /// Puts an event in.
    pub fn push(&mut self, at: Duration, event: E) {
        self.serial += 1;
        self.events.insert((at, self.serial), event);
    }

    /// When the next event is due.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next event.
    pub fn pop(&mut self) -> Option<(Duration, E)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }

    /// All that is to come, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Duration, &E)> {
        self.events.iter().map(|((at, _), event)| (*at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_one_time_comes_as_it_was_put_in() {
        let mut queue = Queue::default();
        let at = Duration::from_secs;
        for (seconds, name) in [(2, 'c'), (1, 'a'), (2, 'd'), (1, 'b')] {
            queue.push(at(seconds), name);
        }
        assert_eq!(queue.next_at(), Some(at(1)));
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!(order, "abcd");
    }
}
