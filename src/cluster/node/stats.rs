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
        /// Calls of handlers, for packets, events and what they do later.
        handled: counter,
        /// The time that handlers took.
        handling: time,
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
        /// Times from requests to gates until their answers.
        call: time_histogram,
        /// Requests to gates that wait for their answers, now.
        calls: gauge,
        /// Requests to gates that were not answered.
        calls_failed: counter,
        /// Timers of handlers, now.
        timers: gauge,
        /// Actors, now.
        actors: gauge,
        /// Messages that were refused, since the mailbox of their actor was full.
        messages_refused: counter,
        /// Gates that were lost.
        gates_lost: counter,
        /// Links that other servers have dialled, now.
        links: gauge,
        /// Those of them by which nothing more comes, since this node is about to stop, now.
        left: gauge,
        /// Links refused, since there were too many.
        links_refused: counter,
        /// Requests of other servers that were not served: malformed, or not allowed.
        requests_refused: counter,
        /// Frames given up, since the link to their server was down for too long.
        given_up: counter,
        /// The stage of the drain now: 0 none, 1 jobs, timers and actors are awaited, 2 users are handed over, 3 nothing new is taken.
        drain_stage: gauge,
    }
    /// The counters of one reactor of a node.
    #[derive(Debug, Default)]
    pub(super) struct NodeCounters;
}
