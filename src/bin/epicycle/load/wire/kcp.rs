//! Packets of a cluster over KCP, echoed.

use std::time::Instant;

use epicycle::codec::Raw;
use epicycle::kcp::{Kcp, KcpOptions};
use epicycle::{Conn, ConnTimer, WriteError};

use super::echo::Echo;
use super::{Meaning, Wire, framed};
use crate::load::driver::Driver;

/// The token of the timer. There is no other.
const FLUSH: u64 = 0;

#[derive(Clone)]
pub(crate) struct OverKcp {
    packets: Echo,
    options: KcpOptions,
}

/// A connection over KCP, which begins with the first request.
#[derive(Default)]
pub(crate) struct Link {
    kcp: Option<Box<Kcp>>,
    /// The timer of the next flush, and when it is due.
    timer: Option<(Instant, ConnTimer)>,
    /// The number of bytes received of the current answer.
    received: usize,
}

impl OverKcp {
    /// Packets with so many bytes of data.
    pub(crate) fn packets(size: usize) -> Self {
        let packet = framed::packet(size);
        let len = (packet.len() as u32).to_be_bytes();
        Self {
            packets: Echo::of([&len[..], &packet].concat()),
            options: KcpOptions::new(),
        }
    }

    /// Sends what is due, and sets the timer for what is due later.
    fn flush(&self, conn: &mut Conn<'_, Driver<Self>>, link: &mut Link) {
        let now = conn.now();
        let Some(kcp) = &mut link.kcp else {
            return;
        };
        // A datagram that is not sent is sent again, as one that the network has lost.
        kcp.flush(now, |datagram| drop(conn.write(datagram)));
        // A dead connection has nothing due any more: its requests time out.
        let due = kcp.check();
        let set = link.timer.take_if(|(at, _)| *at <= now);
        let is_sooner = |due: &Instant| link.timer.as_ref().is_none_or(|(at, _)| due < at);
        if let Some(due) = due.filter(is_sooner) {
            if let Some((_, late)) = set.or(link.timer.take()) {
                conn.cancel_timer(late);
            }
            let timer = conn.set_timer(due.saturating_duration_since(now), FLUSH);
            link.timer = Some((due, timer));
        }
    }
}

impl Wire for OverKcp {
    /// A frame is a datagram.
    type Codec = Raw;
    type State = Link;

    fn codec(&self) -> Raw {
        Raw
    }

    /// KCP has no handshake.
    fn greet(&self, _conn: &mut Conn<'_, Driver<Self>>) -> Result<bool, WriteError> {
        Ok(true)
    }

    fn ask(&self, conn: &mut Conn<'_, Driver<Self>>, link: &mut Link) -> Result<(), WriteError> {
        let begin = || Box::new(Kcp::client(fastrand::u32(..), &self.options, conn.now()));
        let kcp = link.kcp.get_or_insert_with(begin);
        kcp.send(self.packets.payload())
            .map_err(|full| WriteError::Full {
                queued: full.queued,
                limit: self.options.most_queued(),
            })?;
        self.flush(conn, link);
        Ok(())
    }

    fn interpret(
        &self,
        conn: &mut Conn<'_, Driver<Self>>,
        link: &mut Link,
        datagram: &[u8],
    ) -> Meaning {
        let now = conn.now();
        let Some(kcp) = &mut link.kcp else {
            return Meaning::Nothing;
        };
        // A malformed datagram, or one of an earlier connection from this port, is no answer.
        if kcp.input(datagram, now).is_err() {
            return Meaning::Nothing;
        }
        let mut answers = 0;
        while let Some(bytes) = kcp.recv() {
            match self.packets.compare(&mut link.received, &bytes) {
                Meaning::Right(more) => answers += more,
                Meaning::Nothing => {}
                other => return other,
            }
        }
        self.flush(conn, link);
        match answers {
            0 => Meaning::Nothing,
            answers => Meaning::Right(answers),
        }
    }

    fn on_timer(&self, conn: &mut Conn<'_, Driver<Self>>, link: &mut Link) {
        self.flush(conn, link);
    }
}
