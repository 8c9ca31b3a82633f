//! The frozen processes of this node whose pages others may fetch, by move.

use super::source::{PageSource, Sent, ServeError, serve};
use dunix_ids::NodeId;
use dunix_transport::MeshStream;
use dunix_wire::processes::{MoveId, PagesHeader};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// One entry for each move away from this node that is not finished; who starts moves bounds them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Offers(Arc<Mutex<BTreeMap<MoveId, Offer>>>);

#[derive(Debug)]
struct Offer {
    to: NodeId,
    source: PageSource,
    sent: Arc<Mutex<Sent>>,
    cancelled: Arc<Notify>,
    outcome: oneshot::Sender<Result<(), ServeError>>,
}

/// Pages that are offered or under way. Dropping it withdraws the offer or cuts the stream.
#[derive(Debug)]
pub(crate) struct Serving {
    offers: Offers,
    id: MoveId,
    sent: Arc<Mutex<Sent>>,
    cancelled: Arc<Notify>,
    outcome: oneshot::Receiver<Result<(), ServeError>>,
}

impl Offers {
    /// Lets a node fetch a process's pages, once. The process must stay as it is until the returned
    /// value is dropped.
    pub(crate) fn offer(&self, id: MoveId, to: NodeId, source: PageSource) -> Serving {
        let (sender, outcome) = oneshot::channel();
        let (sent, cancelled) = (Arc::<Mutex<Sent>>::default(), Arc::<Notify>::default());
        let offer =
            Offer { to, source, sent: sent.clone(), cancelled: cancelled.clone(), outcome: sender };
        self.lock().insert(id, offer);
        Serving { offers: self.clone(), id, sent, cancelled, outcome }
    }

    /// A peer has opened a move's stream: serves it, or resets it if nothing is offered to that peer.
    /// Call it inside [`PageThreads`](super::PageThreads).
    pub(crate) fn serve(&self, from: NodeId, header: PagesHeader, stream: MeshStream) {
        let offer = {
            let mut offers = self.lock();
            match offers.get(&header.id) {
                Some(offer) if offer.to == from => offers.remove(&header.id),
                _ => None,
            }
        };
        let Some(offer) = offer else {
            tracing::debug!(%from, ?header, "a stream for pages that are not offered");
            return stream.reset();
        };
        tokio::spawn(async move {
            let (sender, receiver) = stream.split();
            let result = tokio::select! {
                result = serve(offer.source, sender, receiver, offer.sent) => result,
                () = offer.cancelled.notified() => Err(ServeError::TargetLeft),
            };
            // Nobody may want to know.
            let _ = offer.outcome.send(result);
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MoveId, Offer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serving {
    /// What has been sent so far.
    pub(crate) fn sent(&self) -> Sent {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the target has every page that it needs.
    ///
    /// # Errors
    /// It never will.
    pub(crate) async fn finish(&mut self) -> Result<Sent, ServeError> {
        match (&mut self.outcome).await {
            Ok(Ok(())) => Ok(self.sent()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ServeError::TargetLeft),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.offers.lock().remove(&self.id);
        self.cancelled.notify_one();
    }
}
