//! The lobby: logins, the way to the rooms, and what players say beyond their room.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use epicycle::cluster::Error;
use epicycle::cluster::drpc::Target;
use epicycle::cluster::node::{HandlerError, NodeBuilder, Request, RoomOptions, RouteFlag};

use crate::arena::Arena;
use crate::protocol::{
    Audience, JOIN, Join, LEAVE, LOGIN, Login, ROOMS, RoomEntry, SAID, SAY, SAY_TO_ALL, Said, TURN,
    Ticket, WHISPER, Whisper, short,
};

/// The state of the node.
pub(crate) struct Lobby {
    last_uid: i64,
    /// The secrets of the players, by which they come back.
    secrets: HashMap<i64, String>,
    /// The name that each player has taken last.
    names: HashMap<i64, String>,
    /// The room that each player has joined last.
    rooms_of: HashMap<i64, String>,
    players: Counts,
}

/// The number of players of each room, which the rooms keep.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<String, usize>>>);

/// The kind of the actors that are rooms.
const KIND: &str = "arena";
/// The channel of all players.
const ALL: &str = "all";
const MAX_ROOMS: usize = 100;
const MAX_PLAYERS: usize = 100_000;

/// Returns a node with the routes of the game.
pub(crate) fn routes(node: NodeBuilder<()>) -> NodeBuilder<Lobby> {
    node.name("game")
        .state(|_reactor| Lobby {
            last_uid: 0,
            secrets: HashMap::new(),
            names: HashMap::new(),
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
                .route_with(SAY_TO_ALL, RouteFlag::Authorized, Lobby::say_to_all)
                .route_with(WHISPER, RouteFlag::Authorized, Lobby::whisper)
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
            cx.subscribe(ALL)?;
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
        let Join { room, name } = cx.parse()?;
        for name in [&room, &name] {
            if name.is_empty() || name.chars().count() > 24 {
                return Err("the name of a room or a player has 1 to 24 characters".into());
            }
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
        self.names.insert(uid, name);
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

    fn say_to_all(&mut self, cx: &mut Request<'_>) -> Result<(), HandlerError> {
        let said = Said {
            to: Audience::All,
            name: self.name(cx.uid())?,
            text: &short(&cx.parse::<String>()?),
        };
        cx.publish(ALL, SAID, &said)?;
        Ok(())
    }

    fn whisper(&mut self, cx: &mut Request<'_>) -> Result<(), HandlerError> {
        let (Whisper { to, text }, from) = (cx.parse()?, cx.uid());
        let to = Target::user(to);
        cx.is_online(to, move |lobby: &mut Self, cx, is_there| {
            let is_there = is_there?;
            if is_there {
                let said = Said {
                    to: Audience::You,
                    name: lobby.name(from)?,
                    text: &short(&text),
                };
                cx.push_to(to, SAID, &said)?;
            }
            cx.respond(&is_there)?;
            Ok::<(), HandlerError>(())
        })?;
        Ok(())
    }

    fn name(&self, uid: i64) -> Result<&str, HandlerError> {
        let name = self.names.get(&uid);
        Ok(name.ok_or("a player has its name from the first room that it joins")?)
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
