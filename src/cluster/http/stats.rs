//! The metrics of the server.

use std::sync::{Arc, Weak};

use super::body::Room;
use crate::metrics::{Expose, Exposition};
use crate::{metric_label, metric_set};

metric_label! {
    /// The class of the status of an answer.
    pub enum HttpStatusClass("status") {
        /// The request was carried out.
        Success = "2xx",
        /// The client is sent elsewhere, or has the answer already.
        Redirection = "3xx",
        /// The request was wrong.
        ClientError = "4xx",
        /// The server has failed, or is busy.
        ServerError = "5xx",
    }
}

metric_set! {
    /// The metrics of an HTTP server at one moment.
    #[derive(Clone, Debug, Default)]
    pub struct HttpStats("epicycle_http") {
        /// Requests that were answered, by the class of the status.
        requests: counter by HttpStatusClass,
        /// Requests whose client was gone before the answer.
        abandoned: counter,
        /// Requests that arrive or are carried out now.
        in_flight: gauge,
        /// Time from the head of a request to its answer.
        request_time: time_histogram,
        /// Connections of clients now.
        connections: gauge,
        /// Bytes of bodies that were received.
        body_received_bytes: counter,
        /// Bytes of memory that the bodies of requests take now.
        body_held_bytes: gauge,
        /// Bodies that were refused since all of them together take as much memory as they may.
        body_refused: counter,
    }
    /// The cells, which the reactor counts in.
    #[derive(Debug, Default)]
    pub(super) struct Cells;
}

/// The metrics of a running server.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) cells: Cells,
    pub(super) room: Arc<Room>,
}

impl Metrics {
    pub(super) fn read(&self) -> HttpStats {
        HttpStats {
            body_held_bytes: self.room.held(),
            ..self.cells.read()
        }
    }
}

/// The metrics for a list of what is observed. They leave it with the server.
pub(super) struct Observed(pub(super) Weak<Metrics>);

impl Expose for Observed {
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        if let Some(metrics) = self.0.upgrade() {
            metrics.read().expose(labels, to);
        }
    }
}

impl HttpStatusClass {
    pub(super) fn of(status: u16) -> Self {
        match status {
            ..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}
