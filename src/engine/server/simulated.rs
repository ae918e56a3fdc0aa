//! The one reactor of a simulation, made from a server's options.

use std::panic::resume_unwind;

use super::{Server, peer, poll_and_waker, shared};
use crate::clock::Clock;
use crate::engine::handler::EventHandler;
use crate::engine::handler::engine::{Engine, Shared};
use crate::engine::listen::listeners::Listeners;
use crate::engine::reactor::{EventLoop, Parts};
use crate::engine::udp::sockets::UdpSockets;
use crate::error::Error;

impl Server {
    /// Boots one reactor that runs when it is told to, and listens nowhere.
    ///
    /// # Errors
    ///
    /// [`Error`] when an option is wrong, or there is no descriptor left.
    pub(crate) fn simulate<H: EventHandler>(
        self,
        factory: impl Fn(usize) -> H,
    ) -> Result<(EventLoop<H>, Engine<H>), Error> {
        let options = self.options;
        options.check()?;
        let (poll, waker) = poll_and_waker()?;
        let engine = Engine::new(Shared {
            #[cfg(feature = "tls")]
            tls: self.listens.into_iter().map(|listen| listen.tls).collect(),
            ..shared(&options, vec![peer(&options, waker)])
        });
        let parts = Parts {
            poll,
            engine: engine.clone(),
            clock: Clock::simulated(),
            index: 0,
            limits: options.limits(),
            listeners: Listeners::default(),
            udp_sockets: UdpSockets::default(),
            socket: options.socket.clone(),
            read_buffer: options.read_buffer,
            first_tick: options.tick,
        };
        match EventLoop::boot(parts, &factory) {
            Ok(event_loop) => Ok((event_loop, engine)),
            Err(panic) => resume_unwind(panic),
        }
    }
}
