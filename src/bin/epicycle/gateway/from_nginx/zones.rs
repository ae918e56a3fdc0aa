//! `limit_req` as limits of rate.

use std::collections::BTreeMap;

use super::parse::Directive;
use super::upstream::hash_key;
use super::{Notes, reasons, toml};

/// The zones of a file that a limit can take the place of.
#[derive(Default)]
pub(super) struct Zones(BTreeMap<String, Zone>);

struct Zone {
    /// The key by which the limit counts.
    by: String,
    rate: String,
    /// The routes that have it.
    routes: usize,
}

impl Zones {
    /// Reads a `limit_req_zone`.
    pub(super) fn add(&mut self, directive: &Directive, notes: &mut Notes) {
        let by = hash_key(directive.arg()).filter(|by| by == "ip" || by.starts_with("header:"));
        let arg = |key: &str| {
            let mut args = directive.args.iter();
            args.find_map(|arg| arg.strip_prefix(key)?.strip_prefix('='))
        };
        let name = arg("zone").and_then(|zone| zone.split(':').next());
        let rate = arg("rate").and_then(rate);
        match (by, name, rate) {
            (Some(by), Some(name), Some(rate)) => {
                let zone = Zone {
                    by,
                    rate,
                    routes: 0,
                };
                self.0.insert(name.to_owned(), zone);
            }
            (None, ..) => notes.left(
                directive,
                "a limit counts by address, by a field or by route here: see `limit` of a route",
            ),
            _ => notes.left(directive, "it cannot be read"),
        }
    }

    /// Returns the line for the limits of a location, which becomes `routes` routes.
    pub(super) fn limits(
        &mut self,
        directives: &[&Directive],
        routes: usize,
        notes: &mut Notes,
    ) -> String {
        let mut limits = Vec::new();
        for directive in directives {
            let (mut zone, mut burst, mut delays) = (None, Some(0), true);
            for arg in &directive.args {
                match arg.split_once('=').unwrap_or((arg, "")) {
                    ("zone", name) => zone = self.0.get_mut(name),
                    ("burst", most) => burst = most.parse::<u32>().ok(),
                    ("nodelay", _) => delays = false,
                    _ => {}
                }
            }
            let (Some(zone), Some(burst)) = (zone, burst) else {
                notes.left(directive, &reasons::why(directive));
                continue;
            };
            if delays && burst > 0 {
                let problem = "requests within the burst are not delayed here";
                notes.left(directive, problem);
            }
            zone.routes += routes;
            if zone.routes > 1 {
                let problem = "each route counts for itself here, so that a client may send as many requests to each";
                notes.left(directive, problem);
            }
            limits.push(format!(
                "{{ rate = {}, burst = {}, by = {} }}",
                toml::text(&zone.rate),
                // nginx counts those beside the one that is always let in.
                burst.saturating_add(1),
                toml::text(&zone.by)
            ));
        }
        match &limits[..] {
            [] => String::new(),
            [one] => format!("limit = {one}\n"),
            several => format!("limit = [{}]\n", several.join(", ")),
        }
    }
}

/// Returns nginx's rate, such as `10r/s`, as this program writes it.
fn rate(text: &str) -> Option<String> {
    let (number, unit) = text.split_once("r/")?;
    let number = number.parse::<u32>().ok().filter(|number| *number > 0)?;
    matches!(unit, "s" | "m").then(|| format!("{number}/{unit}"))
}
