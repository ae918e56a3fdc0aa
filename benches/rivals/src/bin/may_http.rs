//! HTTP/1.1 with may_minihttp on one worker thread: each answer is 12 bytes of text.

use std::error::Error;
use std::io;

use clap::Parser;
use may_minihttp::{HttpServer, HttpService, Request, Response};
use rivals::Flags;

#[derive(Clone)]
struct Hello;

impl HttpService for Hello {
    fn call(&mut self, _: Request, response: &mut Response) -> io::Result<()> {
        response
            .header("Content-Type: text/plain")
            .body("Hello World!");
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // The stack size of its examples: 4,096 words.
    may::config().set_workers(1).set_stack_size(0x1000);
    let server = HttpServer(Hello).start(Flags::parse().addr())?;
    server.join().map_err(|_| "the server has panicked".into())
}
