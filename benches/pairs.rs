//! Joins each two clients that connect and passes all that one sends on to the other. `pairs.py` measures it.

#![allow(missing_docs)]

use std::env;

use epicycle::codec::Raw;
use epicycle::{
    Action, CloseReason, Closed, Conn, ConnId, ConnInfo, EventHandler, Reactor, Server,
};

#[derive(Default)]
struct Pairs {
    alone: Option<ConnId>,
}

impl EventHandler for Pairs {
    type Codec = Raw;
    type Session = Option<ConnId>;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
        Raw
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Option<ConnId>> {
        let id = conn.id();
        let partner = self.alone.take();
        match partner {
            Some(partner) => conn.with(partner, |_, theirs| *theirs = Some(id))?,
            None => self.alone = Some(id),
        }
        Some(partner)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        partner: &mut Option<ConnId>,
        bytes: &[u8],
    ) -> Action {
        match partner.and_then(|partner| conn.with(partner, |other, _| other.write(bytes))) {
            Some(written) => written.into(),
            None => Action::Close,
        }
    }

    fn on_close(
        &mut self,
        reactor: &mut Reactor<'_, Self>,
        info: &Closed,
        partner: Option<ConnId>,
        _: CloseReason,
    ) {
        match partner {
            Some(partner) => {
                reactor.with(partner, |other, _| other.close());
            }
            None => self.alone = self.alone.filter(|alone| *alone != info.id),
        }
    }
}

fn main() -> Result<(), epicycle::Error> {
    let Some(port) = env::args().nth(1).filter(|port| !port.starts_with('-')) else {
        println!("usage: pairs PORT; see pairs.py");
        return Ok(());
    };
    Server::bind(format!("tcp4://127.0.0.1:{port}"))
        .reactors(1)
        .stop_on_signals()
        .run(|_reactor| Pairs::default())?;
    Ok(())
}
