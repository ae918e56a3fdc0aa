//! A handler made of one closure.

use std::fmt;

use super::{Action, Conn, EventHandler};
use crate::codec::Raw;
use crate::engine::conn::origin::ConnInfo;

/// The handler that [`service`] returns.
#[must_use = "a handler does nothing until a server or a client runs it"]
pub struct Service {
    react: Box<React>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

// Boxed, because the type of a closure cannot name itself through `Conn<'_, Service>`.
type React = dyn FnMut(&mut Conn<'_, Service>, &[u8]) -> Action;

/// Returns a handler without codec and session. It calls `react` with the bytes as they arrive.
///
/// ```no_run
/// use epicycle::{Server, service};
///
/// Server::bind("tcp://127.0.0.1:9000").run(|_| service(|conn, bytes| conn.write(bytes).into()))?;
/// # Ok::<(), epicycle::Error>(())
/// ```
pub fn service(react: impl FnMut(&mut Conn<'_, Service>, &[u8]) -> Action + 'static) -> Service {
    Service {
        react: Box::new(react),
    }
}

impl EventHandler for Service {
    type Codec = Raw;
    type Session = ();

    fn codec(&mut self, _info: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: &[u8]) -> Action {
        (self.react)(conn, frame)
    }
}
