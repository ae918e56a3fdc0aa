use crate::cluster::dispatch::Refusal;
use crate::cluster::packet::ResumeRefusal;
use crate::{metric_label, metric_set};

metric_label! {
    /// The reason why a gate has dropped a packet of a client.
    pub enum RefusedPacket("reason") {
        /// No node serves the route.
        UnknownRoute = "unknown_route",
        /// The route is internal.
        Internal = "internal",
        /// The route is stateful or authorized, and the connection has no user.
        NoUser = "no_user",
        /// The route is stateful, and the user is on no node.
        NotLocated = "not_located",
        /// Nodes serve the route, but none takes packets.
        NoneWorking = "none_working",
        /// The link to the node has no room, or the node is about to stop.
        Busy = "busy",
        /// No node of the route accepts a link from this gate, or this gate one to it: their secrets differ, most likely.
        Unreachable = "unreachable",
        /// The client sends faster than the gate allows.
        Rate = "rate",
    }
}

metric_label! {
    /// The reason why a gate has refused to give a user back.
    pub enum RefusedResume("reason") {
        /// The gate does not resume.
        Off = "off",
        /// The token is not genuine, or the client asks for what was never sent.
        Invalid = "invalid",
        /// The token has expired or was used, or the user is gone.
        Expired = "expired",
        /// The client has missed more pushes than were kept.
        Lost = "lost",
        /// The gate that has the user cannot be reached, or one of both has too much to do.
        Unavailable = "unavailable",
    }
}

impl From<ResumeRefusal> for RefusedResume {
    fn from(refusal: ResumeRefusal) -> Self {
        match refusal {
            ResumeRefusal::Off => RefusedResume::Off,
            ResumeRefusal::Invalid => RefusedResume::Invalid,
            ResumeRefusal::Expired => RefusedResume::Expired,
            ResumeRefusal::Lost => RefusedResume::Lost,
            ResumeRefusal::Unavailable | ResumeRefusal::Other(_) => RefusedResume::Unavailable,
        }
    }
}

impl From<Refusal> for RefusedPacket {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownRoute => RefusedPacket::UnknownRoute,
            Refusal::Internal => RefusedPacket::Internal,
            Refusal::NoUser => RefusedPacket::NoUser,
            Refusal::NotLocated => RefusedPacket::NotLocated,
            Refusal::NoneWorking => RefusedPacket::NoneWorking,
        }
    }
}

metric_set! {
    /// The metrics of a gate at one moment. Counters count from its start. A field whose text contains "now" goes up and down.
    #[derive(Clone, Debug, Default)]
    #[non_exhaustive]
    pub struct GateStats("epicycle_gate") {
        /// The number of the gate's state now: 1 work, 2 busy, 3 hang.
        state: gauge,
        /// The stage of the drain now: 0 none, 1 clients are to go, 2 those that are left are closed, 3 nothing new is taken.
        drain_stage: gauge,
        /// Clients connected now.
        connections: gauge,
        /// Clients with a user now.
        users: gauge,
        /// Clients refused, since there were too many.
        clients_refused: counter,
        /// Clients closed, since they were silent for too long.
        silent: counter,
        /// Clients over KCP closed, since too many had not proved their addresses: forged ones, most likely.
        unproved: counter,
        /// Clients closed, since they had no user for too long.
        unauthorized: counter,
        /// Clients closed, since they did not read what was pushed to them.
        slow: counter,
        /// Packets of clients, without heartbeats.
        packets_in: counter,
        /// Bytes of these packets.
        bytes_in: counter,
        /// Packets handed to the links to nodes.
        delivered: counter,
        /// Packets of clients that were dropped.
        refused: counter by RefusedPacket,
        /// Times that a client was not read, since the link to a node had much to send.
        held_up: counter,
        /// Clients whose packets of stateful routes wait now: for the locator, or for the user's node.
        waiting: gauge,
        /// Packets that a node did not take.
        rejected: counter,
        /// Packets that were delivered to another node after that.
        redelivered: counter,
        /// Bytes of packets of stateful routes that nodes may still reject, now.
        kept_bytes: gauge,
        /// Events handed to the links to nodes.
        events: counter,
        /// Events that a link had no room for.
        events_lost: counter,
        /// Links that other servers have dialled, now.
        links: gauge,
        /// Links refused, since there were too many.
        links_refused: counter,
        /// Frames given up, since the link to their node was down for too long.
        given_up: counter,
        /// Requests of other servers.
        requests: counter,
        /// Requests that were not served: malformed, not allowed, or more than there is room for.
        requests_refused: counter,
        /// Packets pushed to clients, counted for each receiver.
        pushed: counter,
        /// Bytes of these packets.
        bytes_pushed: counter,
        /// Pushes dropped, since their client did not read.
        pushes_dropped: counter,
        /// Users bound.
        binds: counter,
        /// Times from requests to bind a user until the locator has answered and the bind is done or refused.
        bind: time_histogram,
        /// Binds that failed.
        binds_failed: counter,
        /// Connections that lost their user to a later login.
        replaced: counter,
        /// Tokens issued with which clients can resume.
        tokens: counter,
        /// Users without a connection that may come back, now.
        away: gauge,
        /// Bytes of pushes that are kept for clients that may resume, now.
        resume_bytes: gauge,
        /// Users that have come back.
        resumed: counter,
        /// Pushes that were sent again to them.
        repeated: counter,
        /// Attempts to come back that were refused.
        resumes_refused: counter by RefusedResume,
        /// Users that have not come back in time.
        windows_ended: counter,
        /// Users that were not waited for, since there were too many.
        resume_overflow: counter,
        /// Pushes passed on to the new connection of a user.
        passed_on: counter,
        /// Users that the locator could not be told to forget.
        unbinds_failed: counter,
    }
    /// The counters of one reactor of a gate.
    #[derive(Debug, Default)]
    pub(super) struct GateCounters;
}
