//! SIGPIPE, which `sendfile(2)` and `splice(2)` raise on a connection that is broken and have no flag against.

use std::io;

/// Blocks SIGPIPE in the calling thread, so that such a call answers EPIPE whatever the process does about the signal.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(crate) fn block() -> io::Result<()> {
    use std::mem::MaybeUninit;
    use std::ptr;

    let mut signals = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that the other two calls read, and no old mask is asked for.
    let error = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), ptr::null_mut())
    };
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// This platform's engine writes with calls that raise no signal.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn block() -> io::Result<()> {
    Ok(())
}
