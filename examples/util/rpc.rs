//! The flag for the protocol of RPC peers.

use clap::ValueEnum;
use epicycle::rpc::ProtocolChoice;
use epicycle::rpc::wire::Dialect;

/// A protocol. The names with a 4 are in the dialect of Teleport v4.0.0.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Proto {
    Raw,
    Raw4,
    Json,
    Json4,
    Pb,
    Pb4,
}

impl Proto {
    fn dialect(self) -> Dialect {
        match self {
            Proto::Raw | Proto::Json | Proto::Pb => Dialect::V4_1,
            Proto::Raw4 | Proto::Json4 | Proto::Pb4 => Dialect::V4_0,
        }
    }

    /// Returns the protocol of a listener. It takes both dialects where these can be told apart.
    pub(crate) fn of_listener(self) -> ProtocolChoice {
        match self {
            Proto::Raw | Proto::Raw4 => ProtocolChoice::raw(),
            Proto::Json | Proto::Json4 => ProtocolChoice::json(),
            Proto::Pb | Proto::Pb4 => ProtocolChoice::pb(self.dialect()),
        }
    }

    /// Returns the protocol of an outbound connection.
    pub(crate) fn of_dial(self) -> ProtocolChoice {
        match self {
            Proto::Raw | Proto::Raw4 => ProtocolChoice::raw_of(self.dialect()),
            Proto::Json | Proto::Json4 => ProtocolChoice::json_of(self.dialect()),
            Proto::Pb | Proto::Pb4 => ProtocolChoice::pb(self.dialect()),
        }
    }
}
