//! Listeners that come and go while the engine runs.

use std::sync::atomic::Ordering;

use super::{Command, Engine, EventHandler};
use crate::addr::Addr;
use crate::engine::listen::bind::Listener;
use crate::engine::listen::listeners::ListenerChange;
use crate::engine::listen::profile::ListenProfile;
#[cfg(feature = "testing")]
use crate::engine::listen::simulated;
use crate::engine::listen::{Listen, Resolved, StreamPlace};
use crate::engine::mailbox::Wake;
use crate::engine::slots::MAX_SLOTS;
use crate::engine::udp::sockets::{self, UdpPlace};
use crate::error::Error;
#[cfg(feature = "testing")]
use crate::sys::simulated::SimulatedHost;

/// A listener that was opened while the engine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listening {
    /// Its number, as in [`Origin::Accepted`](crate::Origin). The listeners that the server started with have the first
    /// numbers, from 0 on. No number is used twice.
    pub listener: usize,
    /// Its address, with the port that the kernel chose.
    pub local_addr: Addr,
}

impl<H: EventHandler> Engine<H> {
    /// Opens another listener: TCP, Unix or UDP, with the options of the [`Listen`] and the socket options of the server. When
    /// it returns, clients can connect.
    ///
    /// The main reactor accepts, or the reactors do if they accept by themselves. In an engine that began without a stream
    /// listener, such as a [`Client`](crate::Client), there is no main reactor. Its reactors share the socket then, and no
    /// balance policy applies.
    ///
    /// A host name is looked up on the calling thread. So use an IP address in a callback.
    ///
    /// ```
    /// # use epicycle::{Client, service};
    /// let running = Client::new().start(|_| service(|conn, bytes| conn.write(bytes).into()))?;
    /// let listening = running.engine().listen("tcp://127.0.0.1:0")?;
    /// println!("listening on {}", listening.local_addr);
    /// assert!(running.engine().unlisten(listening.listener));
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error`] as for [`Server::start`](crate::Server::start), and [`Error::Stopped`] once the engine stops accepting. Should
    /// a reactor fail to watch the socket, for want of memory in the kernel, that is logged.
    pub fn listen(&self, listen: impl Into<Listen>) -> Result<Listening, Error> {
        let number = self.shared().next_listener.fetch_add(1, Ordering::Relaxed);
        if number >= MAX_SLOTS {
            return Err(Error::Option {
                name: "listen",
                problem: "the engine has no number left for another listener".to_owned(),
            });
        }
        let listen = listen.into();
        let profile = ListenProfile::of(&listen, &self.shared().limits)?;
        self.shared().profiles.insert(number, profile);
        let (is_udp, opened) = match listen.resolve(number) {
            Ok(Resolved::Stream(place)) => (false, self.listen_for_streams(place)),
            Ok(Resolved::Udp(place)) => (true, self.listen_for_datagrams(place)),
            Err(error) => (false, Err(error)),
        };
        match &opened {
            Ok(Listening { local_addr, .. }) => {
                log::info!(target: "epicycle::server", "listening on {} as listener {number}", local_addr.with_scheme(is_udp));
            }
            Err(_) => self.shared().profiles.remove(number),
        }
        opened
    }

    fn listen_for_streams(&self, place: StreamPlace) -> Result<Listening, Error> {
        let shared = self.shared();
        let options = &shared.listen_options;
        #[cfg(feature = "testing")]
        if let Some(host) = options.udp.stack.as_simulated() {
            return self.listen_in_simulation(host, place);
        }
        let name = place.place.to_string();
        let failed = |source| Error::Bind {
            addr: name.clone(),
            source,
        };
        let first = Listener::bind(place, &options.socket)?;
        let listening = Listening {
            listener: first.number,
            local_addr: first.local_addr().map_err(failed)?,
        };
        let mut listeners = Vec::new();
        if shared.main.is_none() {
            // Without SO_REUSEPORT the address cannot be bound again, and the reactors share the socket.
            let again = options.socket.reuse_port.then_some(&options.socket);
            for _ in 1..self.reactors() {
                listeners.push(first.sibling(again).map_err(failed)?);
            }
        }
        listeners.push(first);
        // The lock keeps a shutdown from passing by: it closes these listeners, or they are refused here.
        let mut all = shared.listening.lock();
        if !shared.accepting.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        for listener in &listeners {
            all.add(listener.number, &listener.bound);
        }
        match &shared.main {
            Some(main) => {
                let added = listeners.into_iter().map(ListenerChange::Add);
                main.changes.lock().extend(added);
                Wake::wake(&main.waker);
            }
            None => {
                for (reactor, listener) in shared.reactors.iter().zip(listeners) {
                    let add = Command::ChangeListeners(ListenerChange::Add(listener));
                    let _ = reactor.mailbox.push_unbounded(add);
                }
            }
        }
        Ok(listening)
    }

    #[cfg(feature = "testing")]
    fn listen_in_simulation(
        &self,
        host: &SimulatedHost,
        place: StreamPlace,
    ) -> Result<Listening, Error> {
        let shared = self.shared();
        let mut all = shared.listening.lock();
        if !shared.accepting.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        Ok(Listening {
            listener: place.number,
            local_addr: simulated::listen(host, place, &mut all)?,
        })
    }

    fn listen_for_datagrams(&self, place: UdpPlace) -> Result<Listening, Error> {
        let shared = self.shared();
        sockets::check_handler(&place, H::HANDLES_DATAGRAMS)?;
        let listener = place.0;
        let options = &shared.listen_options.udp;
        let bound = sockets::bind(vec![place], self.reactors(), options)?;
        let mut all = shared.listening.lock();
        if !shared.accepting.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        all.add_udp(listener);
        for (reactor, sockets) in shared.reactors.iter().zip(bound.reactors) {
            let add = Command::AddUdpSockets(Box::new(sockets));
            let _ = reactor.mailbox.push_unbounded(add);
        }
        let addr = bound.addrs.into_iter().next();
        Ok(Listening {
            listener,
            local_addr: addr.map_or(Addr::Unix(None), |(_, addr)| addr),
        })
    }

    /// Closes a listener, by its number. Its connections stay. A UDP listener takes no new sessions, and its socket closes with
    /// the last one. Returns false if there is no such listener.
    ///
    /// Returns at once. Connections that wait in the backlog are reset, and the address is free, when the threads that accept
    /// there have closed the socket.
    pub fn unlisten(&self, listener: usize) -> bool {
        let shared = self.shared();
        let mut all = shared.listening.lock();
        if !all.remove(listener) {
            return false;
        }
        #[cfg(feature = "testing")]
        if let Some(host) = shared.listen_options.udp.stack.as_simulated() {
            host.unlisten(listener);
        }
        if let Some(main) = &shared.main {
            main.changes.lock().push(ListenerChange::Remove(listener));
            Wake::wake(&main.waker);
        }
        for reactor in &shared.reactors {
            let remove = Command::ChangeListeners(ListenerChange::Remove(listener));
            let _ = reactor.mailbox.push_unbounded(remove);
        }
        log::info!(target: "epicycle::server", "listener {listener} is closed");
        true
    }
}
