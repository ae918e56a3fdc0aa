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

/// An origin without its number, which a connection keeps elsewhere, where it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Accepted,
    Connected,
    Adopted,
}

impl Origin {
    pub(crate) fn split(self) -> (Direction, u64) {
        match self {
            Origin::Accepted { listener } => (Direction::Accepted, listener as u64),
            Origin::Connected { token } => (Direction::Connected, token),
            Origin::Adopted { token } => (Direction::Adopted, token),
        }
    }
}

impl Direction {
    pub(crate) fn with(self, number: u64) -> Origin {
        match self {
            Direction::Accepted => Origin::Accepted {
                listener: number as usize,
            },
            Direction::Connected => Origin::Connected { token: number },
            Direction::Adopted => Origin::Adopted { token: number },
        }
    }
}
