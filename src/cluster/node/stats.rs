use crate::metric_set;

metric_set! {
    /// The metrics of a node at one moment. Counters count from its start. A field whose text contains "now" goes up and down.
    #[derive(Clone, Debug, Default)]
    #[non_exhaustive]
    pub struct NodeStats("epicycle_node") {
        /// Packets that gates and nodes have delivered.
        packets_in: counter,
        /// Bytes of these packets.
        bytes_in: counter,
        /// Packets of routes that the node does not have.
        unknown_routes: counter,
        /// Packets that were not taken: malformed, or for a user that is not here.
        packets_refused: counter,
        /// Packets of this node that other nodes have rejected.
        packets_rejected: counter,
        /// Events that gates have told.
        events: counter,
        /// Handlers that returned an error.
        handler_errors: counter,
        /// Handlers that panicked.
        handler_panics: counter,
        /// Handlers that took longer than 50 ms.
        slow_handlers: counter,
        /// Packets sent to clients.
        pushed: counter,
        /// What was to be sent, but its receiver was not located.
        lost: counter,
        /// Timers of handlers, now.
        timers: gauge,
        /// Actors, now.
        actors: gauge,
        /// Gates that were lost.
        gates_lost: counter,
        /// Links that other servers have dialled, now.
        links: gauge,
        /// Links refused, since there were too many.
        links_refused: counter,
        /// Requests of other servers that were not served: malformed, or not allowed.
        requests_refused: counter,
        /// Frames given up, since the link to their server was down for too long.
        given_up: counter,
    }
    /// The counters of one reactor of a node.
    #[derive(Debug, Default)]
    pub(super) struct NodeCounters;
}
