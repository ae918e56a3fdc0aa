use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;

/// The kind of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// 1: holds the connections of clients.
    Gate,
    /// 2: runs the application.
    Node,
    /// 3: serves stateless services.
    Mesh,
    /// 4: manages the others.
    Master,
}

/// The state of an instance.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
    /// 0: gets nothing.
    Shut,
    /// 1: gets everything.
    #[default]
    Work,
    /// 2: gets new users only if no instance is in `work`.
    Busy,
    /// 3: gets only what concerns the users that it has.
    Hang,
}

/// A change of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Event {
    /// 1: a client has connected. There is no user yet.
    Connect,
    /// 2: a user has been bound to the connection: at the first login too, and at each later one, or when a client has taken its user
    /// back.
    Reconnect,
    /// 3: the connection has ended. It has the user, or 0 if there was none, or if the user is on another connection by now. A user
    /// stays bound to its nodes.
    Disconnect,
}

/// Gives an enum its numbers and, optionally, its names.
macro_rules! codes {
    ($name:ident { $($variant:ident = $code:literal $text:literal,)+ }) => {
        impl $name {
            /// Returns the number on the wire.
            pub fn code(self) -> u8 {
                match self {
                    $($name::$variant => $code,)+
                }
            }

            /// Returns the value of a number on the wire, if there is one.
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some($name::$variant),)+
                    _ => None,
                }
            }

            /// Returns the name, as it stands in the registry.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Parses the name.
            ///
            /// # Errors
            ///
            /// Returns [`Error::InvalidArgument`] with the names that are possible.
            fn from_str(text: &str) -> Result<Self, Error> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => {
                        let names = [$($text),+].join(", ");
                        let problem = format!("{text:?} is not one of {names}");
                        Err(Error::argument(stringify!($name), problem))
                    }
                }
            }
        }
    };
}

codes! {
    Kind { Gate = 1 "gate", Node = 2 "node", Mesh = 3 "mesh", Master = 4 "master", }
}
codes! {
    State { Shut = 0 "shut", Work = 1 "work", Busy = 2 "busy", Hang = 3 "hang", }
}
codes! {
    Event { Connect = 1 "connect", Reconnect = 2 "reconnect", Disconnect = 3 "disconnect", }
}
