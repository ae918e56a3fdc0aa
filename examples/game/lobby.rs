//! The lobby: logins, and the way to the rooms.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use epicycle::cluster::Error;
use epicycle::cluster::node::{HandlerError, NodeBuilder, Request, RoomOptions, RouteFlag};

use crate::arena::Arena;
use crate::protocol::{JOIN, Join, LEAVE, LOGIN, Login, ROOMS, RoomEntry, SAY, TURN, Ticket};

/// The state of the node.
pub(crate) struct Lobby {
    last_uid: i64,
    /// The secrets of the players, by which they come back.
    secrets: HashMap<i64, String>,
    /// The room that each player has joined last.
    rooms_of: HashMap<i64, String>,
    players: Counts,
}

/// The number of players of each room, which the rooms keep.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<String, usize>>>);

/// The kind of the actors that are rooms.
const KIND: &str = "arena";
const MAX_ROOMS: usize = 100;
const MAX_PLAYERS: usize = 100_000;

/// Returns a node with the routes of the game.
pub(crate) fn routes(node: NodeBuilder<()>) -> NodeBuilder<Lobby> {
    node.name("game")
        .state(|_reactor| Lobby {
            last_uid: 0,
            secrets: HashMap::new(),
            rooms_of: HashMap::new(),
            players: Counts::default(),
        })
        .route(LOGIN, Lobby::login)
        .route(ROOMS, Lobby::rooms)
        .group(|group| {
            group
                .route_with(JOIN, RouteFlag::Authorized, Lobby::join)
                .route_with(LEAVE, RouteFlag::Authorized, |_, cx| cx.next())
                .route_with(TURN, RouteFlag::Authorized, |_, cx| cx.next())
                .route_with(SAY, RouteFlag::Authorized, |_, cx| cx.next())
        })
}

impl Lobby {
    fn login(&mut self, cx: &mut Request<'_>) -> Result<(), HandlerError> {
        let login: Login = cx.parse()?;
        let known = login
            .ticket
            .filter(|ticket| self.secrets.get(&ticket.uid) == Some(&ticket.secret));
        let ticket = match known {
            Some(ticket) => ticket,
            None => self.new_player()?,
        };
        cx.bind_gate(ticket.uid, move |_: &mut Self, cx, bound| {
            bound?;
            cx.respond(&ticket)
        })?;
        Ok(())
    }

    fn new_player(&mut self) -> Result<Ticket, HandlerError> {
        if self.secrets.len() == MAX_PLAYERS {
            return Err("there are too many players".into());
        }
        self.last_uid += 1;
        let ticket = Ticket {
            uid: self.last_uid,
            secret: format!("{:032x}", rand::random::<u128>()),
        };
        self.secrets.insert(ticket.uid, ticket.secret.clone());
        Ok(ticket)
    }

    fn rooms(&mut self, cx: &mut Request<'_>) -> Result<(), Error> {
        cx.respond(&self.players.list())
    }

    /// Opens the room if there is none of this name. The room itself answers.
    fn join(&mut self, cx: &mut Request<'_>) -> Result<(), HandlerError> {
        let Join { room, .. } = cx.parse()?;
        if room.is_empty() || room.chars().count() > 24 {
            return Err("the name of a room has 1 to 24 characters".into());
        }
        let arena = match cx.actor(KIND, &room) {
            Some(arena) => arena,
            None if self.players.list().len() >= MAX_ROOMS => {
                return Err("there are too many rooms".into());
            }
            None => {
                let arena = Arena::new(&room, self.players.clone());
                cx.spawn_room(RoomOptions::default().tick(20), KIND, &room, arena)?
            }
        };
        let uid = cx.uid();
        if let Some(before) = self.rooms_of.insert(uid, room.clone())
            && before != room
            && let Some(before) = cx.actor(KIND, &before)
        {
            before.invoke_room(move |_: &mut Arena, cx| {
                cx.leave(uid);
                Ok::<(), Error>(())
            })?;
        }
        cx.next_to(&arena)?;
        Ok(())
    }
}

impl Counts {
    pub(crate) fn set(&self, room: &str, players: Option<usize>) {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match players {
            Some(players) => rooms.insert(room.to_owned(), players),
            None => rooms.remove(room),
        };
    }

    fn list(&self) -> Vec<RoomEntry> {
        let rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(room, players): (&String, &usize)| RoomEntry {
            room: room.clone(),
            players: *players,
        };
        rooms.iter().map(entry).collect()
    }
}
