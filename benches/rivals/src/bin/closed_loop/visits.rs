//! Connections with one message each: connect, echo, half-close, wait for the server's FIN, close.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Instant;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::message::Exchange;
use crate::{Clients, Counts};

/// The number of client addresses. Several are needed, because a port stays in use for a minute after its connection.
const ADDRESSES: u64 = 200;

pub(crate) struct Visits {
    addr: SocketAddr,
    exchange: Exchange,
    visitors: Vec<Visitor>,
    begun: u64,
}

impl Visits {
    /// Starts the visits that run at once.
    pub(crate) fn begin(
        registry: &Registry,
        addr: SocketAddr,
        exchange: Exchange,
        at_once: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let mut visits = Self {
            addr,
            exchange,
            visitors: Vec::new(),
            begun: 0,
        };
        for n in 0..at_once {
            let visitor = visits.visitor(registry, n)?;
            visits.visitors.push(visitor);
        }
        Ok(visits)
    }

    fn visitor(&mut self, registry: &Registry, n: usize) -> Result<Visitor, Box<dyn Error>> {
        let since = Instant::now();
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        let host = 2 + (self.begun % ADDRESSES) as u8;
        self.begun += 1;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 0)).into())?;
        if let Err(error) = socket.connect(&self.addr.into())
            && error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error())
        {
            return Err(error.into());
        }
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(n), interest)?;
        Ok(Visitor {
            stream,
            since,
            asked: false,
            come: 0,
        })
    }
}

impl Clients for Visits {
    fn ready(
        &mut self,
        registry: &Registry,
        event: &Event,
        counts: &mut Counts,
    ) -> Result<(), Box<dyn Error>> {
        let n = event.token().0;
        if self.visitors[n].goes_on(event, &self.exchange)? {
            let latency = self.visitors[n].since.elapsed().as_nanos() as u64;
            counts.answers += 1;
            counts.latencies.saturating_record(latency);
            self.visitors[n] = self.visitor(registry, n)?;
        }
        Ok(())
    }
}

struct Visitor {
    stream: TcpStream,
    since: Instant,
    asked: bool,
    /// The number of bytes received.
    come: usize,
}

impl Visitor {
    /// Returns true if the visit is over.
    fn goes_on(&mut self, event: &Event, exchange: &Exchange) -> Result<bool, Box<dyn Error>> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        if !self.asked && event.is_writable() {
            // A new connection has room for a small message.
            self.stream.write_all(&exchange.messages[0])?;
            self.asked = true;
        }
        let mut buffer = [0; 4096];
        while event.is_readable() {
            let come = match self.stream.read(&mut buffer) {
                Ok(0) if self.come == exchange.answer.len => return Ok(true),
                Ok(0) => return Err("the server has closed a connection too early".into()),
                Ok(come) => come,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            let due = exchange.answer.begin.get(self.come..self.come + come);
            if due != Some(&buffer[..come]) {
                return Err("the server answers something else than it should".into());
            }
            self.come += come;
            if self.come == exchange.answer.len {
                self.stream.shutdown(Shutdown::Write)?;
            }
        }
        Ok(false)
    }
}
