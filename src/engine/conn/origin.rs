//! The origin of a connection.

/// The way in which a connection came into the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// A listener accepted it.
    Accepted {
        /// The listener, counted from 0 in the order in which the listeners were given to the server.
        listener: usize,
    },
    /// This side connected ([`Engine::connect`](crate::Engine::connect)).
    Connected {
        /// The number given to [`Connect::token`](crate::Connect::token).
        token: u64,
    },
    /// An established socket was given to [`Engine::adopt`](crate::Engine::adopt).
    Adopted {
        /// The number given to [`Engine::adopt`](crate::Engine::adopt).
        token: u64,
    },
}

/// An origin without its number. A connection stores the number elsewhere, to save space.
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
