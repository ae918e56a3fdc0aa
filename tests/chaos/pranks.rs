//! Hostile clients of proxies: what they do with a SOCKS or an HTTP proxy, and with the tunnels through it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use epicycle::gateway::socks::datagram_header;
use fastrand::Rng;
use socket2::{Domain, SockRef, Socket, Type};

use super::proxies::{Proxy, Scene};

/// A deed of a hostile client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prank {
    /// Sends a part of a handshake, and nothing more.
    Half,
    /// Speaks another protocol, or garbage.
    Garbage,
    /// Names hosts, users or fields without an end.
    Endless,
    /// Asks for one dead port after the other.
    DeadPorts,
    /// Asks for targets that do not answer, and names without an answer, and leaves.
    Mute,
    /// Resets amid a handshake or behind it.
    Reset,
    /// Tries one password after the other.
    Guess,
    /// Opens associations, sends datagrams of all kinds, and leaves them.
    Associate,
    /// Sends much through a tunnel, and takes nothing.
    Stall,
}

pub(crate) const PRANKS: [Prank; 9] = [
    Prank::Half,
    Prank::Garbage,
    Prank::Endless,
    Prank::DeadPorts,
    Prank::Mute,
    Prank::Reset,
    Prank::Guess,
    Prank::Associate,
    Prank::Stall,
];

/// The connections of a dead-port prank.
const PORTS: usize = 100;

/// The connections that a prankster leaves open.
const HELD: usize = 40;

/// A thread of hostile clients.
pub(crate) struct Prankster<'a> {
    scene: &'a Scene,
    rng: Rng,
    /// The second number of its addresses.
    network: u8,
    held: VecDeque<TcpStream>,
    /// The connections that it has made, by prank.
    pub(crate) made: BTreeMap<Prank, u64>,
}

impl<'a> Prankster<'a> {
    pub(crate) fn new(scene: &'a Scene, network: u8, seed: u64) -> Self {
        Self {
            scene,
            rng: Rng::with_seed(seed),
            network,
            held: VecDeque::new(),
            made: BTreeMap::new(),
        }
    }

    pub(crate) fn run(mut self, is_over: &AtomicBool) -> BTreeMap<Prank, u64> {
        let mut pranks = PRANKS;
        for n in (0..PRANKS.len()).cycle() {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            if n == 0 {
                self.rng.shuffle(&mut pranks);
            }
            // The proxy may refuse a connection, or end it at any point.
            let _ = self.play(pranks[n]);
        }
        self.made
    }

    fn play(&mut self, prank: Prank) -> io::Result<()> {
        let proxy = Proxy::ALL[self.rng.usize(..Proxy::ALL.len())];
        let handshake = proxy.handshake("alice:secret", self.scene.echo);
        let part = self.rng.usize(..=handshake.len());
        match prank {
            Prank::Half => {
                let mut stream = self.connect(prank, proxy)?;
                stream.write_all(&handshake[..part])?;
                self.hold(stream);
            }
            Prank::Garbage => {
                let mut stream = self.connect(prank, proxy)?;
                let garbage: Vec<u8> = match self.rng.u32(..5) {
                    0 => b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00".into(),
                    1 => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
                    2 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".into(),
                    3 => b"\x05\x01\x00\x05\x09\x00\x03\x00\x00\x50".into(),
                    _ => std::iter::repeat_with(|| self.rng.u8(..))
                        .take(300)
                        .collect(),
                };
                stream.write_all(&garbage)?;
                self.read_to_end(stream);
            }
            Prank::Endless => {
                let mut stream = self.connect(prank, proxy)?;
                let long = "a".repeat(self.rng.usize(1000..100_000));
                let request = match (proxy.is_socks(), self.rng.bool()) {
                    (true, true) => [b"\x05\xff", long.as_bytes()].concat(),
                    (true, false) => {
                        [b"\x05\x01\x00\x05\x01\x00\x03\xff", long.as_bytes()].concat()
                    }
                    (false, true) => {
                        format!("CONNECT {long}.test:443 HTTP/1.1\r\n\r\n").into_bytes()
                    }
                    (false, false) => format!("GET http://a/ HTTP/1.1\r\nX: {long}").into_bytes(),
                };
                stream.write_all(&request)?;
                self.read_to_end(stream);
            }
            Prank::DeadPorts => {
                let mut streams = Vec::new();
                for _ in 0..PORTS {
                    let mut stream = self.connect(prank, proxy)?;
                    stream.write_all(&proxy.handshake("alice:secret", self.scene.dead.addr))?;
                    streams.push(stream);
                }
                // No more than one round at a time, so that the proxy can keep up.
                for mut stream in streams {
                    let _ = stream.read(&mut [0; 64]);
                }
            }
            Prank::Mute => {
                let mut stream = self.connect(prank, proxy)?;
                let request = match self.rng.bool() {
                    true => proxy.handshake("alice:secret", self.scene.mute.addr),
                    false => proxy.handshake_to_name("alice:secret", "hangs.test", 443),
                };
                stream.write_all(&request)?;
                self.hold(stream);
            }
            Prank::Reset => {
                let mut stream = self.connect(prank, proxy)?;
                stream.write_all(&handshake[..part])?;
                if self.rng.bool() {
                    let _ = stream.read(&mut [0; 64]);
                }
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            }
            Prank::Guess => {
                let proxy = [Proxy::HttpWithUsers, Proxy::SocksWithUsers][self.rng.usize(..2)];
                let mut stream = self.connect(prank, proxy)?;
                let guess = format!("alice:{}", self.rng.u64(..));
                stream.write_all(&proxy.handshake(&guess, self.scene.echo))?;
                self.hold(stream);
            }
            Prank::Associate => self.associate()?,
            Prank::Stall => {
                let mut stream = self.connect(prank, proxy)?;
                stream.write_all(&handshake)?;
                // Its bytes come back, and nobody takes them.
                let much = vec![b'x'; 64 << 10];
                while stream.write(&much)? > 0 {}
                self.hold(stream);
            }
        }
        Ok(())
    }

    fn associate(&mut self) -> io::Result<()> {
        let mut control = self.connect(Prank::Associate, Proxy::Socks)?;
        control.write_all(b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")?;
        let mut reply = [0; 12];
        control.read_exact(&mut reply)?;
        let port = u16::from_be_bytes([reply[10], reply[11]]);
        let ip = Ipv4Addr::new(reply[6], reply[7], reply[8], reply[9]);
        let own = control.local_addr()?.ip();
        let socket = UdpSocket::bind((own, 0))?;
        socket.connect((ip, port))?;
        for n in 0..self.rng.u32(1..80) {
            let target = match self.rng.u32(..4) {
                0 => SocketAddr::from(([127, 9, 9, 9], n as u16 + 1)),
                1 => SocketAddr::from(([169, 254, 169, 254], 80)),
                _ => self.scene.udp,
            };
            let mut datagram = [datagram_header(target).as_slice(), b"prank"].concat();
            match self.rng.u32(..8) {
                // A fragment.
                0 => datagram[2] = 1,
                1 => datagram.truncate(self.rng.usize(..datagram.len())),
                _ => {}
            }
            // An answer of the kernel's to an earlier one.
            let _ = socket.send(&datagram);
        }
        match self.rng.u32(..4) {
            0 => control.write_all(b"x")?,
            1 => control.shutdown(Shutdown::Write)?,
            2 => SockRef::from(&control).set_linger(Some(Duration::ZERO))?,
            _ => self.hold(control),
        }
        Ok(())
    }

    /// Connects from one of many addresses, so that none has more connections than allowed.
    fn connect(&mut self, prank: Prank, proxy: Proxy) -> io::Result<TcpStream> {
        let from = Ipv4Addr::new(127, self.network, self.rng.u8(..), self.rng.u8(1..255));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&self.scene.addr(proxy).into())?;
        let stream = TcpStream::from(socket);
        let short = Some(Duration::from_millis(100));
        stream.set_read_timeout(short)?;
        stream.set_write_timeout(short)?;
        *self.made.entry(prank).or_default() += 1;
        Ok(stream)
    }

    /// Leaves a connection open, and closes the one that has been open for longest.
    fn hold(&mut self, stream: TcpStream) {
        self.held.push_back(stream);
        if self.held.len() > HELD {
            self.held.pop_front();
        }
    }

    /// Reads until the proxy ends the connection. One that does not is held.
    fn read_to_end(&mut self, mut stream: TcpStream) {
        let end = io::copy(&mut stream, &mut io::sink());
        if end
            .is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
        {
            self.hold(stream);
        }
    }
}
