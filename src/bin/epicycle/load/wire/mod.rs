//! The protocols: each sends requests and checks the answers.

mod echo;
mod framed;
mod http;
#[cfg(feature = "kcp")]
mod kcp;
mod ws;

use epicycle::codec::Codec;
use epicycle::{Conn, WriteError};

use super::driver::Driver;
use super::tally::Failure;

pub(crate) use self::echo::Echo;
pub(crate) use self::framed::Framed;
pub(crate) use self::http::Http;
#[cfg(feature = "kcp")]
pub(crate) use self::kcp::OverKcp;
pub(crate) use self::ws::Ws;

/// A protocol. Answers arrive in the order of the requests.
pub(crate) trait Wire: Clone + Send + Sync + Sized + 'static {
    type Codec: Codec;
    /// The state of a connection.
    type State: Default + 'static;

    fn codec(&self) -> Self::Codec;

    /// Starts the handshake. Returns true if requests can be sent at once, or false if [`Meaning::Ready`] will follow.
    fn greet(&self, conn: &mut Conn<'_, Driver<Self>>) -> Result<bool, WriteError>;

    /// Sends a request.
    fn ask(
        &self,
        conn: &mut Conn<'_, Driver<Self>>,
        state: &mut Self::State,
    ) -> Result<(), WriteError>;

    /// Checks a received frame.
    fn interpret(
        &self,
        conn: &mut Conn<'_, Driver<Self>>,
        state: &mut Self::State,
        frame: <Self::Codec as Codec>::Frame<'_>,
    ) -> Meaning;

    /// Does the work for which this protocol has set a timer of the connection. Most set none.
    fn on_timer(&self, conn: &mut Conn<'_, Driver<Self>>, state: &mut Self::State) {
        let _ = (conn, state);
    }
}

/// The meaning of a frame.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// The frame completes no answer.
    Nothing,
    /// The handshake is done, and requests can be sent.
    Ready,
    /// This number of requests has a right answer.
    Right(usize),
    /// A request has a wrong answer.
    Wrong(Failure),
    /// The input makes no sense, so the connection is useless.
    Nonsense(&'static str),
}

/// Returns the bytes of a request. They have no period, so that misplaced bytes are found, and are the same for the same
/// length.
fn payload(len: usize) -> Box<[u8]> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(0x10AD).fill(&mut bytes);
    bytes.into()
}
