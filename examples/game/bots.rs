//! Players that the program plays itself: clients of the gate, as any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use epicycle::cluster::Error;
use epicycle::cluster::client::{Client, ClientContext, ClientEvent, Clients};

use crate::protocol::{JOIN, Join, LOGIN, Login, SCENE, Scene, TURN, Ticket, Turn};

pub(crate) struct Bots {
    _clients: Vec<Client>,
    coins: Arc<AtomicU64>,
}

/// The number of bots in a room.
const IN_A_ROOM: usize = 10;

/// Connects bots, which play until they are dropped.
pub(crate) fn start(clients: &Clients, addr: &str, count: usize) -> Result<Bots, Error> {
    let coins = Arc::new(AtomicU64::new(0));
    let bots = (0..count).map(|number| {
        let uid = Arc::new(AtomicI64::new(0));
        let (known, coins) = (uid.clone(), coins.clone());
        let mut had = 0;
        Client::builder()
            .on_event(move |client, event| {
                if let ClientEvent::Connected { .. } = event {
                    login(client, number, uid.clone());
                }
            })
            .route(SCENE, move |client, packet| {
                let Ok(scene) = serde_json::from_slice::<Scene>(packet.data) else {
                    return;
                };
                let uid = known.load(Ordering::Relaxed);
                if let Some(me) = scene.players.iter().find(|player| player.uid == uid) {
                    let new = u64::from(me.coins.saturating_sub(had));
                    if coins.fetch_add(new, Ordering::Relaxed) == 0 && new > 0 {
                        println!("{} has got the first coin", me.name);
                    }
                    had = me.coins;
                    // Bots are not quick.
                    if fastrand::u8(..8) == 0 {
                        let (x, y) = scene.coin;
                        let turn = Turn {
                            dx: (x - me.x).signum(),
                            dy: (y - me.y).signum(),
                        };
                        send(client, &turn);
                    }
                }
            })
            .dial(clients, addr)
    });
    Ok(Bots {
        _clients: bots.collect::<Result<_, _>>()?,
        coins,
    })
}

impl Bots {
    /// Returns the number of coins that all of them have got.
    pub(crate) fn coins(&self) -> u64 {
        self.coins.load(Ordering::Relaxed)
    }
}

fn login(client: &mut ClientContext<'_>, number: usize, uid: Arc<AtomicI64>) {
    let Ok(json) = serde_json::to_vec(&Login::default()) else {
        return;
    };
    // If it fails, the connection is lost, and there will be another one.
    let _ = client.request(LOGIN, &json, move |client, reply| {
        let ticket = reply.ok();
        let ticket = ticket.and_then(|json| serde_json::from_slice::<Ticket>(json).ok());
        let join = Join {
            room: format!("bots {}", number / IN_A_ROOM + 1),
            name: format!("bot {number}"),
        };
        if let (Some(ticket), Ok(json)) = (ticket, serde_json::to_vec(&join)) {
            uid.store(ticket.uid, Ordering::Relaxed);
            let _ = client.request(JOIN, &json, |_, _| {});
        }
    });
}

fn send(client: &mut ClientContext<'_>, turn: &Turn) {
    if let Ok(json) = serde_json::to_vec(turn) {
        let _ = client.push(TURN, &json);
    }
}
