//! The protocols: how to ask, and how to tell whether an answer is right.

mod echo;
mod framed;
mod http;
mod ws;

use epicycle::codec::Codec;
use epicycle::{Conn, WriteError};

use super::driver::Driver;
use super::tally::Failure;

pub(crate) use self::echo::Echo;
pub(crate) use self::framed::Framed;
pub(crate) use self::http::Http;
pub(crate) use self::ws::Ws;

/// A protocol. Answers come in the order of the requests.
pub(crate) trait Wire: Clone + Send + Sync + Sized + 'static {
    type Codec: Codec;
    /// What is remembered about a connection.
    type State: Default + 'static;

    fn codec(&self) -> Self::Codec;

    /// Begins the conversation; returns whether requests can be sent at once. If not, [`Heard::Ready`] tells when.
    fn greet(&self, conn: &mut Conn<'_, Driver<Self>>) -> Result<bool, WriteError>;

    /// Sends a request.
    fn ask(&self, conn: &mut Conn<'_, Driver<Self>>) -> Result<(), WriteError>;

    /// Looks at what has come.
    fn hear(&self, state: &mut Self::State, frame: <Self::Codec as Codec>::Frame<'_>) -> Heard;
}

/// What a frame means.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing yet.
    Nothing,
    /// Requests can be sent from now on.
    Ready,
    /// So many requests are answered right.
    Right(usize),
    /// One is answered, but not right.
    Wrong(Failure),
    /// What comes makes no sense, and nothing behind it will.
    Nonsense(&'static str),
}

/// Bytes to send that a mistake cannot hide behind: no period, and the same for the same length.
fn payload(len: usize) -> Box<[u8]> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(0x10AD).fill(&mut bytes);
    bytes.into()
}
