//! The promises of every cache in another program.

use epicycle::cluster::Error;
use epicycle::cluster::cache::Cache;

pub(crate) fn refuses_sums_that_are_none(cache: &impl Cache) {
    cache.set("text", "many", None).expect("sets");
    let most = i64::MAX.to_string();
    cache.set("most", &most, None).expect("sets");
    for (key, problem) in [("text", "no such number"), ("most", "out of range")] {
        let error = cache.increase(key, 1).expect_err("there is no sum");
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
}
