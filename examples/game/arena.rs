//! A room: a field on which players run for a coin.

use std::collections::BTreeMap;

use epicycle::cluster::node::{HandlerError, Room, RoomContext, RoomRoutes, Tick};

use crate::lobby::Counts;
use crate::protocol::{
    Audience, Field, JOIN, Join, LEAVE, NEWS, News, SAID, SAY, SCENE, Said, Scene, Seen, TURN,
    Turn, short,
};

pub(crate) struct Arena {
    name: String,
    counts: Counts,
    players: BTreeMap<i64, Player>,
    coin: (i32, i32),
}

struct Player {
    name: String,
    at: (i32, i32),
    direction: (i32, i32),
    coins: u32,
}

const WIDTH: i32 = 32;
const HEIGHT: i32 = 18;

impl Arena {
    pub(crate) fn new(name: &str, counts: Counts) -> Self {
        Self {
            name: name.to_owned(),
            counts,
            players: BTreeMap::new(),
            coin: anywhere(),
        }
    }

    fn join(&mut self, cx: &mut RoomContext<'_, Self>) -> Result<(), HandlerError> {
        let Join { name, .. } = cx.parse()?;
        let uid = cx.uid();
        let player = Player {
            name,
            at: anywhere(),
            direction: (0, 0),
            coins: 0,
        };
        cx.join(uid)?;
        // A player that comes back has what it had.
        self.players.entry(uid).or_insert(player);
        self.counts.set(&self.name, Some(self.players.len()));
        self.tell(cx, uid, "is here")?;
        cx.respond(&Field {
            width: WIDTH,
            height: HEIGHT,
        })?;
        Ok(())
    }

    fn turn(&mut self, cx: &mut RoomContext<'_, Self>) -> Result<(), HandlerError> {
        let Turn { dx, dy } = cx.parse()?;
        if let Some(player) = self.players.get_mut(&cx.uid()) {
            player.direction = (dx.signum(), dy.signum());
        }
        Ok(())
    }

    fn say(&mut self, cx: &mut RoomContext<'_, Self>) -> Result<(), HandlerError> {
        let text = short(&cx.parse::<String>()?);
        if let Some(Player { name, .. }) = self.players.get(&cx.uid()) {
            let said = Said {
                to: Audience::Room,
                name,
                text: &text,
            };
            cx.broadcast(SAID, &said)?;
        }
        Ok(())
    }

    fn tell(
        &self,
        cx: &mut RoomContext<'_, Self>,
        uid: i64,
        what: &'static str,
    ) -> Result<(), HandlerError> {
        if let Some(Player { name, .. }) = self.players.get(&uid) {
            cx.broadcast(NEWS, &News { name, what })?;
        }
        Ok(())
    }
}

impl Room for Arena {
    fn routes(routes: &mut RoomRoutes<'_, Self>) {
        routes
            .route(JOIN, Self::join)
            .route(TURN, Self::turn)
            .route(SAY, Self::say)
            .route(LEAVE, |_, cx| {
                let was_member = cx.leave(cx.uid());
                cx.respond(&was_member)
            });
    }

    fn on_start(&mut self, _: &mut RoomContext<'_, Self>) -> Result<(), HandlerError> {
        self.counts.set(&self.name, Some(0));
        Ok(())
    }

    fn on_lost(&mut self, cx: &mut RoomContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        if let Some(player) = self.players.get_mut(&uid) {
            player.direction = (0, 0);
        }
        self.tell(cx, uid, "is cut off")
    }

    fn on_reconnect(
        &mut self,
        cx: &mut RoomContext<'_, Self>,
        uid: i64,
    ) -> Result<(), HandlerError> {
        self.tell(cx, uid, "is back")
    }

    fn on_leave(&mut self, cx: &mut RoomContext<'_, Self>, uid: i64) -> Result<(), HandlerError> {
        let gone = self.players.remove(&uid);
        self.counts.set(&self.name, Some(self.players.len()));
        if self.players.is_empty() {
            cx.stop();
        }
        if let Some(Player { name, .. }) = gone {
            let news = News {
                name: &name,
                what: "has left",
            };
            cx.broadcast(NEWS, &news)?;
        }
        Ok(())
    }

    fn on_tick(&mut self, cx: &mut RoomContext<'_, Self>, _: Tick) -> Result<(), HandlerError> {
        for player in self.players.values_mut() {
            let (x, y) = player.at;
            let (dx, dy) = player.direction;
            player.at = ((x + dx).clamp(0, WIDTH - 1), (y + dy).clamp(0, HEIGHT - 1));
            if player.at == self.coin {
                player.coins += 1;
                self.coin = anywhere();
            }
        }
        let seen = |(uid, player): (&i64, &Player)| Seen {
            uid: *uid,
            name: player.name.clone(),
            x: player.at.0,
            y: player.at.1,
            coins: player.coins,
        };
        let scene = Scene {
            players: self.players.iter().map(seen).collect(),
            coin: self.coin,
        };
        cx.broadcast(SCENE, &scene)?;
        Ok(())
    }

    fn on_stop(&mut self, _: &mut RoomContext<'_, Self>) {
        self.counts.set(&self.name, None);
    }
}

fn anywhere() -> (i32, i32) {
    (fastrand::i32(0..WIDTH), fastrand::i32(0..HEIGHT))
}
