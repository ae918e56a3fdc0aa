//! UDP in a turn of the loop. Datagrams are received in batches, handled one by one, and sent in batches.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::serve::{Budget, level_of};
use super::{EventLoop, NOBODY, ShutdownStage};
use crate::addr::Addr;
use crate::codec::look::look;
use crate::codec::{Codec, Decoded};
use crate::engine::conn::ConnState;
use crate::engine::conn::close::CloseReason;
use crate::engine::conn::limit_sets::SERVER;
use crate::engine::conn::limits::ConnLimits;
use crate::engine::conn::origin::Origin;
use crate::engine::handler::closing::severity;
use crate::engine::handler::context::{Context, Link, Served, Slot};
use crate::engine::handler::converse::awaits_rest;
use crate::engine::handler::{Action, Datagram, EventHandler, Udp};
use crate::engine::slots::ConnId;
use crate::engine::slots::MAX_SLOTS;
use crate::engine::stream::{DatagramStream, Stream};
use crate::engine::udp::sockets;
use crate::engine::udp::sockets::Delivery;
use crate::engine::udp::sockets::UdpSocket;
use crate::sys::datagram::{DatagramOptions, Received, Receiver, Sender};

/// The buffers with which the UDP sockets of a reactor receive and send.
pub(super) struct DatagramIo {
    receiver: Receiver,
    sender: Sender,
    /// The socket that is being served, and the rest of its budget.
    serving: Option<(usize, Budget)>,
    /// The socket whose batch has not been handled completely.
    unfinished: Option<usize>,
}

/// The recipient of a datagram.
enum Recipient {
    Handler,
    Session(usize),
    Nobody,
}

/// With this many datagrams queued, a socket is flushed before more is received.
const FLUSH_AT: usize = 64;

impl DatagramIo {
    fn new() -> Self {
        Self {
            receiver: Receiver::new(),
            sender: Sender::new(),
            serving: None,
            unfinished: None,
        }
    }
}

impl<H: EventHandler> EventLoop<H> {
    /// Serves the UDP sockets that have input, each within its budget. The rest is served in the next turn.
    #[inline]
    pub(super) fn serve_udp_sockets(&mut self) {
        if self.cx.udp_sockets.ready() > 0 || self.turn.udp_sockets_left.is_some() {
            self.serve_ready_udp_sockets();
        }
    }

    #[inline(never)]
    fn serve_ready_udp_sockets(&mut self) {
        let ready = self.cx.udp_sockets.ready();
        self.turn.udp_sockets_left.get_or_insert(ready);
        loop {
            let datagram_io = self
                .datagram_io
                .get_or_insert_with(|| Box::new(DatagramIo::new()));
            // After a panic, the socket that was being served continues.
            let (index, budget) = match datagram_io.serving.take() {
                Some(serving) => serving,
                None => {
                    let left = self.turn.udp_sockets_left.get_or_insert(0);
                    let Some(rest) = left.checked_sub(1) else {
                        break;
                    };
                    *left = rest;
                    let Some(index) = self.cx.udp_sockets.next_ready() else {
                        break;
                    };
                    (index, Budget::new(self.cx.budgets))
                }
            };
            datagram_io.serving = Some((index, budget));
            self.serve_port(index);
            if let Some(datagram_io) = &mut self.datagram_io {
                datagram_io.serving = None;
                if datagram_io.unfinished.is_some() {
                    // The buffers are in use until the batch has been handled.
                    break;
                }
            }
        }
    }

    /// Handles the received datagrams of one socket and receives more, until its budget is spent or nothing arrives.
    fn serve_port(&mut self, index: usize) {
        let datagram_io = self.datagram_io.as_mut();
        let mut is_behind =
            datagram_io.is_some_and(|datagram_io| datagram_io.unfinished.take().is_some());
        loop {
            self.deliver_batch(index);
            let others_wait = self.cx.udp_sockets.ready() > 0;
            let (Some(datagram_io), Some(port)) =
                (&mut self.datagram_io, self.cx.udp_sockets.get_mut(index))
            else {
                return;
            };
            if datagram_io.receiver.peek().is_some() {
                datagram_io.unfinished = Some(index);
                return self.cx.udp_sockets.enqueue(index, true);
            }
            if !port.readable {
                return;
            }
            let is_spent = datagram_io
                .serving
                .as_ref()
                .is_none_or(|(_, budget)| budget.is_spent());
            // If a batch takes several turns, a turn must not begin with the end of the last one. Otherwise the other
            // sockets would wait until a batch and a budget happen to end together.
            let yields = std::mem::take(&mut is_behind) && others_wait;
            if is_spent || yields {
                return self.cx.udp_sockets.enqueue(index, false);
            }
            match datagram_io.receiver.receive(&port.socket) {
                Ok(drained) => port.readable = !drained,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => port.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if let Some((_, budget)) = &mut datagram_io.serving {
                        budget.spend_frames(1);
                    }
                    log::debug!(target: "epicycle::udp", "receiving failed: {error}");
                    self.fail_connected(index, error);
                }
            }
            if port_queue_is_long(&self.cx, index) {
                self.flush_port(index);
            }
        }
    }

    /// Delivers the datagrams of the batch, within the budget.
    fn deliver_batch(&mut self, index: usize) {
        while let Some(datagram_io) = &mut self.datagram_io
            && let Some(peer) = datagram_io.receiver.peek()
            && let Some((_, budget)) = &mut datagram_io.serving
            && !budget.is_spent()
        {
            let recipient = self.recipient(index, peer);
            let Self {
                handler,
                connections,
                cx,
                datagram_io: Some(datagram_io),
                turn,
                ..
            } = self
            else {
                return;
            };
            let Some(datagram) = datagram_io.receiver.next() else {
                return;
            };
            let len = datagram.data.len();
            cx.metrics.datagrams_in.add(1);
            cx.metrics.bytes_in.add(len as u64);
            cx.metrics
                .datagrams_truncated
                .add(u64::from(datagram.truncated));
            if let Some((_, budget)) = &mut datagram_io.serving {
                budget.spend(len);
                budget.spend_frames(1);
            }
            match recipient {
                Recipient::Handler => {
                    let Received {
                        peer,
                        data,
                        truncated,
                    } = datagram;
                    let mut udp = Udp::new(connections, cx, index, Some(peer));
                    let datagram = Datagram {
                        peer,
                        data,
                        truncated,
                    };
                    match handler.on_datagram(&mut udp, datagram) {
                        Action::Shutdown => cx.engine.shutdown(),
                        Action::Refused(error) => {
                            let level = severity(&error);
                            log::log!(target: "epicycle::udp", level, "{peer}: a reply was refused: {error}");
                        }
                        Action::Continue | Action::Close => {}
                    }
                }
                Recipient::Session(slot) => {
                    if let Some(mut slot) = connections.at(slot) {
                        turn.serving = slot.link.state.id.slot();
                        let work = Served::new(handler, &mut slot, cx, connections).react(datagram);
                        if let Some((_, budget)) = &mut datagram_io.serving {
                            budget.spend(work.bytes);
                            budget.spend_frames(work.frames);
                        }
                        turn.serving = NOBODY;
                    }
                }
                Recipient::Nobody => cx.metrics.datagrams_dropped.add(1),
            }
        }
    }

    /// Returns the recipient of the datagrams of `peer`. A peer without a session gets one.
    fn recipient(&mut self, index: usize, peer: SocketAddr) -> Recipient {
        let Some(port) = self.cx.udp_sockets.get_mut(index) else {
            return Recipient::Nobody;
        };
        match &mut port.delivery {
            Delivery::Datagrams { .. } => Recipient::Handler,
            Delivery::Connected { slot, from: None } => {
                slot.map_or(Recipient::Nobody, Recipient::Session)
            }
            Delivery::Connected { slot, from } => {
                let Some(slot) = *slot else {
                    return Recipient::Nobody;
                };
                match from {
                    Some(from) if *from == peer => return Recipient::Session(slot),
                    Some(from) if from.port() == 0 && from.ip() == peer.ip() => *from = peer,
                    _ => return Recipient::Nobody,
                }
                let to = port.socket.to_wire(peer);
                if let Some(mut slot) = self.connections.at(slot) {
                    slot.link.state.peer = Addr::Ip(peer);
                    if let Some(stream) = slot.link.stream.datagram_mut() {
                        stream.to = Some(to);
                    }
                }
                Recipient::Session(slot)
            }
            Delivery::Sessions(sessions) => {
                let known = sessions.touch(&peer);
                let slot = known.or_else(|| self.admit_session(index, peer));
                slot.map_or(Recipient::Nobody, Recipient::Session)
            }
        }
    }

    /// Opens a session for a peer that has none, unless a limit or the handler refuses it. Returns its slot.
    #[cold]
    fn admit_session(&mut self, index: usize, peer: SocketAddr) -> Option<usize> {
        self.cx.metrics.accepted.add(1);
        if let Err(reason) = self.admit_peer(index, peer) {
            self.cx.metrics.refused.add(1);
            log::debug!(target: "epicycle::udp", "{peer} refused: {reason}");
            return None;
        }
        self.make_room(index);
        let opened = self.open_session(index, peer);
        if let Err(reason) = opened {
            self.cx.metrics.refused.add(1);
            log::debug!(target: "epicycle::udp", "{peer} refused: {reason}");
        }
        opened.ok().flatten()
    }

    /// Checks that a peer without a session may have one. The handler decides last, and receives the first datagram.
    fn admit_peer(&mut self, index: usize, peer: SocketAddr) -> Result<(), &'static str> {
        let accepting = &self.cx.engine.shared().accepting;
        if self.stage != ShutdownStage::Running || !accepting.load(Ordering::Acquire) {
            return Err("no more sessions are accepted");
        }
        let delivery = self.cx.udp_sockets.get(index).map(|port| &port.delivery);
        let has_room =
            matches!(delivery, Some(Delivery::Sessions(sessions)) if sessions.has_room());
        if !has_room || self.connections.len() >= MAX_SLOTS {
            return Err("too many sessions");
        }
        let Self {
            handler,
            connections,
            cx,
            datagram_io: Some(datagram_io),
            ..
        } = self
        else {
            return Err("nothing has come");
        };
        let Some((data, truncated)) = datagram_io.receiver.peek_datagram() else {
            return Err("nothing has come");
        };
        let datagram = Datagram {
            peer,
            data,
            truncated,
        };
        // After a panic here, the same datagram must not be asked about again.
        let asked = catch_unwind(AssertUnwindSafe(|| {
            let mut udp = Udp::new(connections, cx, index, Some(peer));
            handler.admit(&mut udp, &datagram)
        }));
        match asked {
            Ok(true) => Ok(()),
            Ok(false) => Err("the handler does not admit it"),
            Err(panic) => {
                cx.report_panic(panic, "admit");
                Err("admit panicked")
            }
        }
    }

    /// Closes the session whose peer has been silent for longest, if another one needs its place.
    fn make_room(&mut self, index: usize) {
        let Some(port) = self.cx.udp_sockets.get_mut(index) else {
            return;
        };
        if let Delivery::Sessions(sessions) = &mut port.delivery
            && let Some(evicted) = sessions.to_evict()
            && let Some(mut slot) = self.connections.at(evicted)
        {
            // It closes at the end of the turn. Until then it must not be chosen again.
            if let Addr::Ip(peer) = &slot.link.state.peer {
                sessions.remove(peer, evicted);
            }
            self.cx.metrics.evicted.add(1);
            let Slot { link, codec, .. } = &mut *slot;
            self.cx.begin_close(link, codec, CloseReason::Evicted);
        }
    }

    /// Opens a session for a peer. Returns its slot, or `None` if the refusal is counted already.
    fn open_session(
        &mut self,
        index: usize,
        peer: SocketAddr,
    ) -> Result<Option<usize>, &'static str> {
        const CLOSED: &str = "the socket is closed";
        let port = self.cx.udp_sockets.get(index).ok_or(CLOSED)?;
        let Delivery::Sessions(sessions) = &port.delivery else {
            return Err(CLOSED);
        };
        let origin = Origin::Accepted {
            listener: sessions.listener,
        };
        let idle = sessions.idle;
        let stream = Stream::Datagram(Box::new(DatagramStream {
            socket: port.socket.clone(),
            port: index,
            to: Some(port.socket.to_wire(peer)),
            queued_to: 0,
        }));
        let profile = self.cx.profile(origin);
        let own = profile.and_then(|profile| profile.limits.clone());
        let limits = own.unwrap_or_else(|| self.cx.limits.server().clone());
        let limits = self.cx.acquire_session_limits(&limits, Some(idle));
        let limits = limits.ok_or("too many different limits are in use")?;
        let load = &self.cx.engine.peer(self.cx.reactor).load;
        load.fetch_add(1, Ordering::Relaxed);
        let id = self.connections.next_id();
        let mut state = ConnState::new(id, Addr::Ip(peer), origin, self.cx.time.moment());
        state.set_datagram();
        state.set_limits(limits);
        let Ok(slot) = self.watch(stream, state) else {
            return Ok(None);
        };
        if let Some(port) = self.cx.udp_sockets.get_mut(index)
            && let Delivery::Sessions(sessions) = &mut port.delivery
        {
            sessions.insert(peer, slot);
        }
        self.with_slot(slot, |served, _| served.call_on_open());
        Ok(Some(slot))
    }

    /// Makes a session over its own socket, which is connected to `peer`. If that has port 0, the first datagram from its address
    /// tells the port. It opens in the next turn.
    ///
    /// # Errors
    ///
    /// The error of the kernel, or the reason for which the reactor accepts no more connections.
    pub(super) fn open_datagram_session(
        &mut self,
        peer: SocketAddr,
        local: Option<SocketAddr>,
        origin: Origin,
        limits: Option<&ConnLimits>,
        limit: u64,
    ) -> io::Result<ConnId> {
        let options = DatagramOptions {
            recv_buffer: self.dials.options.recv_buffer,
            send_buffer: self.dials.options.send_buffer,
            device: self.dials.options.device.clone(),
            ..DatagramOptions::default()
        };
        let stack = &self.dials.stack;
        let (socket, from) = match peer.port() {
            0 => {
                let any = || SocketAddr::new(unspecified(peer.ip()), 0);
                let local = local.unwrap_or_else(any);
                (stack.bind_datagram(local, false, &options)?, Some(peer))
            }
            _ => (stack.connect_datagram(peer, local, &options)?, None),
        };
        let server = self.cx.limits.server();
        let own = limits.and_then(|own| own.over(server).ok());
        let limits = own.unwrap_or_else(|| server.clone());
        let port = UdpSocket::connected(socket, from, limits.outbound);
        let socket = Arc::clone(&port.socket);
        let index = self.cx.udp_sockets.insert(port);
        // The socket is watched before it has a slot, because a failure would leave the slot behind.
        sockets::watch(self.cx.poll.registry(), index, &socket).inspect_err(|_| {
            self.cx.udp_sockets.remove(index);
        })?;
        let id = self.connections.next_id();
        let mut state =
            ConnState::opening(id, Addr::Ip(peer), origin, self.cx.time.moment(), limit);
        state.set_datagram();
        let number = self.cx.acquire_session_limits(&limits, None);
        state.set_limits(number.unwrap_or(SERVER));
        let stream = Stream::Datagram(Box::new(DatagramStream {
            socket,
            port: index,
            to: None,
            queued_to: 0,
        }));
        let load = &self.cx.engine.peer(self.cx.reactor).load;
        load.fetch_add(1, Ordering::Relaxed);
        let opened = self.watch(stream, state);
        let slot = opened.inspect_err(|_| {
            self.cx.udp_sockets.remove(index);
        })?;
        if let Some(port) = self.cx.udp_sockets.get_mut(index)
            && let Delivery::Connected { slot: of, .. } = &mut port.delivery
        {
            *of = Some(slot);
        }
        if let Some(mut slot) = self.connections.at(slot) {
            self.cx.lists.mark_ready(&mut slot.link.state);
        }
        Ok(id)
    }

    /// Ends the session of a connected socket because of the socket's error.
    fn fail_connected(&mut self, index: usize, error: io::Error) {
        let port = self.cx.udp_sockets.get(index);
        if let Some(Delivery::Connected {
            slot: Some(slot), ..
        }) = port.map(|port| &port.delivery)
        {
            self.with_slot(*slot, |served, _| served.fail(error.into()));
        }
    }

    /// Sends the queued datagrams of all sockets.
    #[inline]
    pub(super) fn flush_udp_sockets(&mut self) {
        while let Some(index) = self.cx.udp_sockets.next_dirty() {
            self.flush_port(index);
        }
    }

    fn flush_port(&mut self, index: usize) {
        let Some(port) = self.cx.udp_sockets.get_mut(index) else {
            return;
        };
        if port.blocked {
            return;
        }
        let datagram_io = self
            .datagram_io
            .get_or_insert_with(|| Box::new(DatagramIo::new()));
        let sent = datagram_io.sender.send(&port.socket, &mut port.queue);
        let metrics = &self.cx.metrics;
        metrics.datagrams_out.add(sent.datagrams as u64);
        metrics.bytes_out.add(sent.bytes as u64);
        metrics.datagrams_dropped.add(sent.dropped as u64);
        port.blocked = sent.is_blocked;
        if port.blocked != port.watches_room
            && let Err(error) = sockets::rewatch(self.cx.poll.registry(), index, port)
        {
            log::error!(target: "epicycle::udp", "cannot watch a socket for room: {error}");
            // Without an event for room, the socket is tried again each time something is queued.
            port.blocked = false;
        }
        if !port.waiting.is_empty() {
            for (_, id) in port.take_flushed() {
                if let Some(mut slot) = self.connections.get(id) {
                    self.cx.lists.mark_dirty(&mut slot.link.state);
                }
            }
        }
        if let Some(error) = sent.error
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            self.fail_connected(index, error);
        }
    }

    /// Stops receiving because the engine stops. Datagrams that are not handled yet are dropped.
    pub(super) fn stop_udp_sockets(&mut self) {
        self.cx.udp_sockets.stop();
        if let Some(datagram_io) = &mut self.datagram_io {
            let dropped = datagram_io.receiver.clear();
            datagram_io.unfinished = None;
            self.cx.metrics.datagrams_dropped.add(dropped as u64);
        }
    }

    /// Closes the sockets whose session has ended, and all of them once the engine drains.
    pub(super) fn close_udp_sockets(&mut self) {
        while let Some(index) = self.cx.udp_sockets.next_idle() {
            if let Some(datagram_io) = &mut self.datagram_io
                && datagram_io.unfinished == Some(index)
            {
                let dropped = datagram_io.receiver.clear();
                datagram_io.unfinished = None;
                self.cx.metrics.datagrams_dropped.add(dropped as u64);
            }
            if let Some(port) = self.cx.udp_sockets.remove(index) {
                let unsent = port.queue.len();
                self.cx.metrics.datagrams_dropped.add(unsent as u64);
            }
        }
        if matches!(
            self.stage,
            ShutdownStage::Answering | ShutdownStage::Draining
        ) {
            for port in self.cx.udp_sockets.drain() {
                let unsent = port.queue.len();
                self.cx.metrics.datagrams_dropped.add(unsent as u64);
            }
        }
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn port_queue_is_long<H: EventHandler>(cx: &Context<H>, index: usize) -> bool {
    let port = cx.udp_sockets.get(index);
    port.is_some_and(|port| port.queue.len() >= FLUSH_AT)
}

/// The cost of a datagram beyond its receipt.
#[derive(Default)]
struct Work {
    bytes: usize,
    /// Frames and skips after the first one.
    frames: usize,
}

impl<H: EventHandler> Served<'_, H> {
    /// Delivers the frames of a datagram to its session. A datagram cannot be kept, so all of them are delivered at
    /// once.
    fn react(&mut self, datagram: Received<'_>) -> Work {
        let Received {
            data, truncated, ..
        } = datagram;
        let active_at = self.slot.link.state.active_at();
        let wanted = self
            .slot
            .link
            .state
            .on_datagram(data.len(), self.cx.time.now());
        let mut work = Work::default();
        if truncated || !wanted || self.slot.session.is_none() {
            self.cx.metrics.datagrams_dropped.add(1);
            return work;
        }
        let mut consumed = 0;
        let (mut frames, mut skips) = (0_usize, 0);
        let mut in_vain = 0;
        let mut last = false;
        let mut failed = false;
        // Few codecs have a frame for nothing.
        let is_empty = data.is_empty();
        let mut is_empty_frame = is_empty && awaits_rest(&self.slot.codec);
        self.cx.decoding.of = Some(self.slot.link.state.id);
        let whole = loop {
            if consumed >= data.len() {
                if !std::mem::take(&mut is_empty_frame) {
                    break true;
                }
                last = true;
            }
            // The frame borrows the datagram until the callback has returned.
            let rest = &mut data[consumed..];
            let (taken, action) = match look(&mut self.slot.codec, rest, last, &mut in_vain) {
                Ok(Decoded::Frame { frame, consumed }) => {
                    match self.slot.lend(self.cx, self.connections) {
                        Some((mut conn, session)) => {
                            (consumed, self.handler.react(&mut conn, session, frame))
                        }
                        None => break false,
                    }
                }
                Ok(Decoded::Skip { consumed: taken }) => {
                    consumed += taken;
                    skips += 1;
                    continue;
                }
                Ok(Decoded::NeedMore { .. }) if !last => {
                    last = true;
                    continue;
                }
                Ok(Decoded::Hold) => break false,
                Ok(Decoded::NeedMore { .. }) if is_empty => break true,
                Ok(Decoded::NeedMore { .. }) => {
                    log::debug!(target: "epicycle::udp", "{}: a datagram ends within a frame", self.slot.link.state.name());
                    failed = true;
                    break false;
                }
                Err(error) => {
                    let level = level_of(&error);
                    log::log!(target: "epicycle::udp", level, "{}: {error}", self.slot.link.state.name());
                    failed = true;
                    break false;
                }
            };
            consumed += taken;
            frames += 1;
            self.apply_action(action, CloseReason::Local);
            consumed += self.after_last_frame(taken, &mut data[consumed..], &mut in_vain);
            last = false;
            if !self.slot.link.state.takes_frames() {
                break consumed >= data.len();
            }
        };
        self.cx.decoding.of = None;
        work.bytes = self.slot.codec.take_cost();
        work.frames = (frames + skips).saturating_sub(1);
        if failed {
            let Link { stream, state, .. } = &self.slot.link;
            self.slot.codec = self.cx.make_codec(self.handler, stream, state);
        }
        if frames > 0 {
            self.slot.link.state.on_frames();
            self.cx.metrics.frames.add(frames as u64);
        } else if skips > 0 && !awaits_rest(&self.slot.codec) {
            self.slot.link.state.on_skipped(active_at);
        }
        if H::Codec::CONVERSES {
            self.conn().after_decoding(frames > 0);
        }
        self.cx.metrics.datagrams_dropped.add(u64::from(!whole));
        work
    }
}
