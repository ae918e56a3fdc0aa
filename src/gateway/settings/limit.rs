use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A limit of the rate of requests: a bucket of tokens for each key. Each request takes a token. One that finds none is answered
/// with 429 and a `Retry-After`.
///
/// All reactors share the buckets. Each takes about 90 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LimitSettings {
    /// The rate at which tokens come.
    pub rate: Rate,
    /// The most tokens in a bucket, from 1 to 1,000,000. A new bucket is full.
    pub burst: u32,
    /// The requests that share a bucket.
    pub by: LimitBy,
    /// The most buckets. When there are as many, the one that was not asked for longest is forgotten, and is full when it comes
    /// back. Default: 65,536, of about 6 MB in total.
    pub max_keys: u32,
}

/// The requests that share a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitBy {
    /// Those of a client's address (IPv6: of a /64), as [trusted](super::Forwarding::trusted) proxies tell it.
    #[default]
    Ip,
    /// Those with the same value of this field. Those without it share a bucket.
    Header(String),
    /// All of the route or of the listener.
    All,
}

/// A number of requests in a time: `100/s`, `30/m` or `1000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    pub(crate) requests: u32,
    pub(crate) per: Duration,
}

impl Rate {
    /// The most requests in the time of a rate, and in a burst.
    pub(crate) const MAX: u32 = 1_000_000;

    /// Returns so many requests in each second, from 1 to 1,000,000.
    pub const fn per_second(requests: u32) -> Self {
        Self {
            requests,
            per: Duration::from_secs(1),
        }
    }

    /// Returns so many requests in each minute.
    pub const fn per_minute(requests: u32) -> Self {
        Self {
            requests,
            per: Duration::from_secs(60),
        }
    }

    /// Returns so many requests in each hour.
    pub const fn per_hour(requests: u32) -> Self {
        Self {
            requests,
            per: Duration::from_secs(60 * 60),
        }
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let remedy =
            "write a number of requests and a time, such as \"100/s\", \"30/m\" or \"1000/h\"";
        let (requests, per) = text.split_once('/').ok_or(remedy)?;
        let requests = requests.trim().parse().map_err(|_| remedy)?;
        match per.trim() {
            "s" => Ok(Self::per_second(requests)),
            "m" | "min" => Ok(Self::per_minute(requests)),
            "h" => Ok(Self::per_hour(requests)),
            _ => Err(remedy),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{per}", self.requests)
    }
}

impl LimitSettings {
    /// Returns a limit by the address of the client, with a burst of as many requests as the rate has.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            burst: rate.requests.max(1),
            by: LimitBy::default(),
            max_keys: 1 << 16,
        }
    }

    /// Sets the most tokens in a bucket.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        self.burst = burst;
        self
    }

    /// Sets the requests that share a bucket.
    #[must_use]
    pub fn by(mut self, by: LimitBy) -> Self {
        self.by = by;
        self
    }
}
