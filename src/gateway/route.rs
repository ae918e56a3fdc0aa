//! The choice of a route by host and path.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::admission::Admission;
use super::kept::Kept;
use super::metrics::{Meters, RouteCounters};
use super::mirror::Mirror;
use super::settings::RouteSettings;
use super::split::Split;

/// The routes of a gateway, as a reactor looks them up.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// By host in lower case.
    exact: HashMap<Box<str>, Paths>,
    /// By suffix, such as `.example.org` in lower case. The longest is first.
    suffixes: Vec<(Box<str>, Paths)>,
    any: Paths,
    all: Vec<Rc<Route>>,
}

/// The routes of a host.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Rc<Route>>,
    /// By prefix. The longest is first.
    prefixes: Vec<(Box<str>, Rc<Route>)>,
}

/// A route, with what is worked out once.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Box<str>,
    pub(crate) settings: RouteSettings,
    /// The number of its pool.
    pub(super) pool: Option<usize>,
    pub(super) counters: Arc<RouteCounters>,
    /// The copy of its requests, if there is to be one.
    pub(super) mirror: Option<Box<Mirror>>,
    /// The choice among several pools, if it has several.
    pub(super) split: Option<Box<Split>>,
    /// The rules by which it takes requests, if it has some.
    pub(super) admission: Option<Box<Admission>>,
}

impl Route {
    /// Returns the route of a forward listener's requests, whose targets clients name.
    pub(super) fn of_targets(listener: &str, pool: Option<usize>, meters: &Meters) -> Self {
        Self {
            name: listener.into(),
            settings: RouteSettings::to(listener),
            pool,
            admission: None,
            split: None,
            mirror: None,
            counters: meters.route(listener),
        }
    }
}

impl Routes {
    /// Returns the routes. `pools` has the numbers of the pools.
    pub(super) fn new(
        settings: &[RouteSettings],
        pools: &HashMap<Box<str>, usize>,
        meters: &Meters,
        kept: &Kept,
    ) -> Self {
        let mut routes = Self::default();
        for settings in settings {
            let name = settings.display_name();
            let route = Rc::new(Route {
                counters: meters.route(&name),
                pool: pools.get(&*settings.pool).copied(),
                admission: Admission::of_route(settings, &name, &kept.limiters),
                mirror: (settings.mirror.as_ref())
                    .map(|mirror| Mirror::new(mirror, &name, pools, &kept.mirrors)),
                split: Split::new(settings, &name, pools, &kept.splits),
                name: name.into(),
                settings: settings.clone(),
            });
            routes.all.push(route.clone());
            let host = settings.host.as_deref().map(str::to_ascii_lowercase);
            let paths = match host.as_deref() {
                None => &mut routes.any,
                Some(host) => match host.strip_prefix('*') {
                    None => routes.exact.entry(host.into()).or_default(),
                    Some(suffix) => routes.suffix(suffix),
                },
            };
            paths.add(settings.path.as_deref().unwrap_or("*"), route);
        }
        routes
            .suffixes
            .sort_by_key(|(suffix, _)| usize::MAX - suffix.len());
        routes
    }

    fn suffix(&mut self, suffix: &str) -> &mut Paths {
        let at = self
            .suffixes
            .iter()
            .position(|(other, _)| **other == *suffix);
        let at = at.unwrap_or_else(|| {
            self.suffixes.push((suffix.into(), Paths::default()));
            self.suffixes.len() - 1
        });
        &mut self.suffixes[at].1
    }

    /// Returns the most specific route for a host, with or without a port, and a path.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Rc<Route>> {
        if self.exact.is_empty() && self.suffixes.is_empty() {
            return self.any.find(path);
        }
        let host = lower(without_port(host));
        let exact = || self.exact.get(&*host)?.find(path);
        let mut suffixes = self.suffixes.iter();
        let suffixed = || {
            suffixes.find_map(|(suffix, paths)| {
                let is_below = host.len() > suffix.len() && host.ends_with(&**suffix);
                is_below.then(|| paths.find(path)).flatten()
            })
        };
        exact().or_else(suffixed).or_else(|| self.any.find(path))
    }

    /// Returns the route of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Rc<Route>> {
        self.all.iter().find(|route| *route.name == *name)
    }
}

impl Paths {
    fn add(&mut self, path: &str, route: Rc<Route>) {
        match path.strip_suffix('*') {
            None => drop(self.exact.insert(path.into(), route)),
            Some(prefix) => {
                self.prefixes.push((prefix.into(), route));
                self.prefixes
                    .sort_by_key(|(prefix, _)| usize::MAX - prefix.len());
            }
        }
    }

    fn find(&self, path: &str) -> Option<&Rc<Route>> {
        self.exact.get(path).or_else(|| {
            let mut prefixes = self.prefixes.iter();
            let found = prefixes.find(|(prefix, _)| path.starts_with(&**prefix));
            found.map(|(_, route)| route)
        })
    }
}

impl Route {
    /// Returns the target that the node gets. The query stays as it is.
    pub(crate) fn target<'a>(&self, target: &'a str) -> Cow<'a, str> {
        let settings = &self.settings;
        if settings.strip_prefix.is_none()
            && settings.add_prefix.is_none()
            && settings.rewrite.is_none()
            || !target.starts_with('/')
        {
            return Cow::Borrowed(target);
        }
        let query = target.find('?').unwrap_or(target.len());
        let (path, query) = target.split_at(query);
        let stripped = settings
            .strip_prefix
            .as_deref()
            .map_or(path, |prefix| strip(path, prefix));
        let path = settings.rewrite.as_deref().unwrap_or(stripped);
        Cow::Owned(match &settings.add_prefix {
            Some(prefix) => format!("{}{}{query}", prefix.trim_end_matches('/'), rooted(path)),
            None => format!("{}{query}", rooted(path)),
        })
    }
}

/// Removes a prefix that ends where a segment of the path does.
fn strip<'a>(path: &'a str, prefix: &str) -> &'a str {
    let prefix = prefix.trim_end_matches('/');
    match path.strip_prefix(prefix) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    }
}

/// Returns a path that begins with a slash.
fn rooted(path: &str) -> Cow<'_, str> {
    match path.starts_with('/') {
        true => Cow::Borrowed(path),
        false => Cow::Owned(format!("/{path}")),
    }
}

/// Returns the host of an authority.
pub(crate) fn without_port(authority: &str) -> &str {
    // The colons in an IP literal are inside its brackets.
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

fn lower(host: &str) -> Cow<'_, str> {
    // The names `a.example` and `a.example.` are the same.
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}
