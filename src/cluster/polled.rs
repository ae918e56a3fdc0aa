use std::thread;
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::{Error, Watch, watch};

const RETRY: Duration = Duration::from_millis(500);
/// The time between two polls, however soon the backend answers: one that tells no position never waits for a change.
const PACE: Duration = Duration::from_millis(50);

/// Watches what `poll` returns, on a thread: at the first call for a position at once, and then when it may have changed or after some
/// seconds. What `poll` waits for is interrupted by the end of the watch.
pub(super) fn watch_polled<T: Clone + PartialEq + Send + 'static, P: Default + Send + 'static>(
    backend: &'static str,
    poll: impl Fn(&mut P, &Ending) -> Result<T, Error> + Send + 'static,
) -> Result<Watch<T>, Error> {
    let mut position = P::default();
    let mut last = poll(&mut position, &Ending::default())?;
    let (sender, watch) = watch();
    let ending = Ending::of(&sender);
    sender.replace(last.clone());
    let follow = move || {
        while !ending.is_over() {
            let began = Instant::now();
            match poll(&mut position, &ending) {
                Ok(new) => {
                    sender.set_lost(false);
                    if new != last {
                        sender.replace(new.clone());
                        last = new;
                    }
                    ending.wait(PACE.saturating_sub(began.elapsed()));
                }
                Err(_) if ending.is_over() => {}
                Err(error) => {
                    position = P::default();
                    log::debug!(target: "epicycle::cluster", "a watch: {error}");
                    sender.set_lost(true);
                    ending.wait(RETRY);
                }
            }
        }
    };
    let thread = thread::Builder::new().name("epicycle-watch".to_owned());
    thread
        .spawn(follow)
        .map_err(|error| Error::backend(backend, format!("no thread for a watch: {error}")))?;
    Ok(watch)
}
