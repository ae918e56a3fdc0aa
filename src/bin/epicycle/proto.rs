//! The flag for the protocol of RPC peers. The examples have the same one.

use clap::ValueEnum;
use epicycle::rpc::ProtocolChoice;
#[cfg(feature = "ws")]
use epicycle::rpc::WebSocket;
use epicycle::rpc::wire::Dialect;

/// A protocol. The names with a 4 are in the dialect of Teleport v4.0.0. Those with ws are in a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proto {
    Raw,
    Raw4,
    Json,
    Json4,
    Pb,
    Pb4,
    #[cfg(feature = "ws")]
    WsRaw,
    #[cfg(feature = "ws")]
    WsRaw4,
    #[cfg(feature = "ws")]
    WsJson,
    #[cfg(feature = "ws")]
    WsJson4,
    #[cfg(feature = "ws")]
    WsPb,
    #[cfg(feature = "ws")]
    WsPb4,
}

/// The path of a WebSocket if none is given.
pub(crate) const WEBSOCKET_PATH: &str = "/ws";

impl Proto {
    fn dialect(self) -> Dialect {
        match self {
            Proto::Raw4 | Proto::Json4 | Proto::Pb4 => Dialect::V4_0,
            #[cfg(feature = "ws")]
            Proto::WsRaw4 | Proto::WsJson4 | Proto::WsPb4 => Dialect::V4_0,
            _ => Dialect::V4_1,
        }
    }

    /// Returns true if the messages are in a WebSocket.
    pub(crate) fn is_websocket(self) -> bool {
        !matches!(
            self,
            Proto::Raw | Proto::Raw4 | Proto::Json | Proto::Json4 | Proto::Pb | Proto::Pb4
        )
    }

    /// Returns the protocol of a listener. It takes both dialects where these can be told apart.
    pub(crate) fn of_listener(self) -> ProtocolChoice {
        match self {
            Proto::Raw | Proto::Raw4 => ProtocolChoice::raw(),
            Proto::Json | Proto::Json4 => ProtocolChoice::json(),
            #[cfg(feature = "ws")]
            Proto::WsRaw | Proto::WsRaw4 => WebSocket::raw(WEBSOCKET_PATH).into(),
            #[cfg(feature = "ws")]
            Proto::WsJson | Proto::WsJson4 => WebSocket::json(WEBSOCKET_PATH).into(),
            other => other.of_dial(WEBSOCKET_PATH),
        }
    }

    /// Returns the protocol of an outbound connection. A WebSocket is asked for at this path.
    #[cfg_attr(not(feature = "ws"), allow(unused_variables))]
    pub(crate) fn of_dial(self, path: &str) -> ProtocolChoice {
        let dialect = self.dialect();
        match self {
            Proto::Raw | Proto::Raw4 => ProtocolChoice::raw_of(dialect),
            Proto::Json | Proto::Json4 => ProtocolChoice::json_of(dialect),
            Proto::Pb | Proto::Pb4 => ProtocolChoice::pb(dialect),
            #[cfg(feature = "ws")]
            Proto::WsRaw | Proto::WsRaw4 => WebSocket::raw(path).dialect(dialect).into(),
            #[cfg(feature = "ws")]
            Proto::WsJson | Proto::WsJson4 => WebSocket::json(path).dialect(dialect).into(),
            #[cfg(feature = "ws")]
            Proto::WsPb | Proto::WsPb4 => WebSocket::pb(path).dialect(dialect).into(),
        }
    }
}
