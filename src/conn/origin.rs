//! Which way a connection came.

/// Which way a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// A listener accepted it.
    Accepted {
        /// The listener, counted from 0 in the order in which the server was told of them.
        listener: usize,
    },
    /// This side connected.
    Connected {
        /// The number given to [`Connect::token`](crate::Connect::token).
        token: u64,
    },
    /// An established socket was given to [`Engine::adopt`](crate::Engine::adopt).
    Adopted {
        /// The number given along.
        token: u64,
    },
}
