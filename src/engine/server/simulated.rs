//! The single reactor of a simulation, made from the options of a server.

use std::panic::resume_unwind;

use super::Server;
use super::settings::Settings;
use super::start::{peer, poll_and_waker, shared};
use crate::clock::Clock;
use crate::engine::handler::EventHandler;
use crate::engine::handler::engine::{Engine, Shared};
use crate::engine::listen::listeners::Listeners;
use crate::engine::reactor::{EventLoop, Parts};
use crate::engine::udp::sockets::UdpSockets;
use crate::error::Error;

impl Server {
    /// Boots one reactor that listens nowhere. The caller runs its turns.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] if an option is wrong, or if no descriptor is left.
    pub(crate) fn simulate<H: EventHandler>(
        self,
        factory: impl Fn(usize) -> H,
    ) -> Result<(EventLoop<H>, Engine<H>), Error> {
        let settings = Settings::parse(self.options)?;
        let (poll, waker) = poll_and_waker()?;
        let engine = Engine::new(Shared {
            #[cfg(feature = "tls")]
            tls: self.listens.into_iter().map(|listen| listen.tls).collect(),
            ..shared(&settings, vec![peer(&settings, waker)])
        });
        let parts = Parts {
            poll,
            engine: engine.clone(),
            clock: Clock::simulated(),
            index: 0,
            limits: settings.limits,
            listeners: Listeners::default(),
            udp_sockets: UdpSockets::default(),
            socket: settings.socket,
            read_buffer: settings.read_buffer,
            first_tick: settings.first_tick,
        };
        match EventLoop::boot(parts, &factory) {
            Ok(event_loop) => Ok((event_loop, engine)),
            Err(panic) => resume_unwind(panic),
        }
    }
}
