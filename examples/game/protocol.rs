//! The packets. Their data is JSON.

use serde::{Deserialize, Serialize};

/// A player asks to be known. The answer is a [`Ticket`].
pub(crate) const LOGIN: i32 = 1;
/// A player asks for the rooms. The answer is a list of [`RoomEntry`].
pub(crate) const ROOMS: i32 = 2;
/// A player joins a room, with [`Join`]. The answer is the [`Field`].
pub(crate) const JOIN: i32 = 3;
/// A player leaves its room.
pub(crate) const LEAVE: i32 = 4;
/// A player turns, with [`Turn`]. There is no answer.
pub(crate) const TURN: i32 = 5;
/// A player says a text in its room. There is no answer.
pub(crate) const SAY: i32 = 6;
/// A player says a text to all players, wherever they are. There is no answer.
pub(crate) const SAY_TO_ALL: i32 = 7;
/// A player says a text to one other, with [`Whisper`]. The answer is true if that one is there.
pub(crate) const WHISPER: i32 = 8;

/// Where everybody is: [`Scene`].
pub(crate) const SCENE: i32 = 50;
/// Somebody said something: [`Said`].
pub(crate) const SAID: i32 = 51;
/// Somebody came or went: [`News`].
pub(crate) const NEWS: i32 = 52;

/// A player that was here before shows the ticket that it got.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Login {
    #[serde(default)]
    pub(crate) ticket: Option<Ticket>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Ticket {
    pub(crate) uid: i64,
    pub(crate) secret: String,
}

#[derive(Serialize)]
pub(crate) struct RoomEntry {
    pub(crate) room: String,
    pub(crate) players: usize,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) room: String,
    pub(crate) name: String,
}

#[derive(Serialize)]
pub(crate) struct Field {
    pub(crate) width: i32,
    pub(crate) height: i32,
}

/// A direction: -1, 0 or 1 each.
#[derive(Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) dx: i32,
    pub(crate) dy: i32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Scene {
    pub(crate) players: Vec<Seen>,
    pub(crate) coin: (i32, i32),
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) uid: i64,
    pub(crate) name: String,
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) coins: u32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Whisper {
    pub(crate) to: i64,
    pub(crate) text: String,
}

#[derive(Serialize)]
pub(crate) struct Said<'t> {
    pub(crate) to: Audience,
    pub(crate) name: &'t str,
    pub(crate) text: &'t str,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Audience {
    Room,
    All,
    You,
}

#[derive(Serialize)]
pub(crate) struct News<'t> {
    pub(crate) name: &'t str,
    pub(crate) what: &'static str,
}

/// Cuts what a player says.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(200).collect()
}
