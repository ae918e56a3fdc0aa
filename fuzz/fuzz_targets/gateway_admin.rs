//! Requests to a gateway's admin interface: method and path in the first line, then the body as JSON or TOML. What is accepted as a
//! configuration is accepted again as it is told, unless it has a secret, which is not told.
#![no_main]

use epicycle::internals::admin_request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    let (line, body) = data.split_once('\n').unwrap_or((data, ""));
    let (method, path) = line.split_once(' ').unwrap_or((line, ""));
    for is_json in [false, true] {
        match admin_request(method, path, body, is_json) {
            Ok(told) if !told.is_empty() && !told.contains("(redacted)") => {
                let again = admin_request(method, path, &told, true);
                assert_eq!(again.as_deref(), Ok(&*told));
            }
            Ok(_) => {}
            Err(problem) => assert!(!problem.is_empty()),
        }
    }
});
