//! Cap'n Proto RPC. Its messages are not decoded: the handler copies the parameter into the result.

use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;

use capnp::traits::HasTypeId;
use capnp_rpc::RpcSystem;
use capnp_rpc::rpc_capnp::{message, return_};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty::VatNetwork;
use futures_util::io::{AsyncReadExt, BufReader, BufWriter};
use rpc_bench::load::Dialogue;
use rpc_bench::message::BenchmarkMessage;
use rpc_rivals::benchmark_capnp::{benchmark, benchmark_message};
use rpc_rivals::{Caller, Failure, check, run};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::compat::TokioAsyncReadCompatExt;

struct Handler;

impl benchmark::Server for Handler {
    async fn say(
        self: Rc<Self>,
        params: benchmark::SayParams,
        mut results: benchmark::SayResults,
    ) -> Result<(), capnp::Error> {
        let mut results = results.get();
        results.set_message(params.get()?.get_message()?)?;
        let mut message = results.get_message()?;
        message.set_field1("OK");
        message.set_field2(100);
        Ok(())
    }
}

fn network(
    stream: TcpStream,
    side: Side,
) -> Result<Box<VatNetwork<impl futures_util::AsyncRead + Unpin>>, Failure> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.compat().split();
    Ok(Box::new(VatNetwork::new(
        BufReader::new(reader),
        BufWriter::new(writer),
        side,
        capnp::message::ReaderOptions::new(),
    )))
}

async fn serve(listener: TcpListener) -> Result<(), Failure> {
    let handler: benchmark::Client = capnp_rpc::new_client(Handler);
    loop {
        let (stream, _) = listener.accept().await?;
        let network = network(stream, Side::Server)?;
        tokio::task::spawn_local(RpcSystem::new(network, Some(handler.client.clone())));
    }
}

/// Fills a message.
fn fill(from: &BenchmarkMessage, mut to: benchmark_message::Builder<'_>) {
    to.set_field1(&from.field1);
    to.set_field2(from.field2);
    to.set_field3(from.field3);
    to.set_field4(&from.field4);
    to.set_field6(from.field6);
    to.set_field7(&from.field7);
    to.set_field9(&from.field9);
    to.set_field12(from.field12);
    to.set_field13(from.field13);
    to.set_field14(from.field14);
    to.set_field16(from.field16);
    to.set_field17(from.field17);
    to.set_field18(&from.field18);
    to.set_field22(from.field22);
    to.set_field23(from.field23);
    to.set_field24(from.field24);
    to.set_field25(from.field25);
    to.set_field29(from.field29);
    to.set_field30(from.field30);
    to.set_field59(from.field59);
    to.set_field60(from.field60);
    to.set_field67(from.field67);
    to.set_field68(from.field68);
    to.set_field78(from.field78);
    to.set_field80(from.field80);
    to.set_field81(from.field81);
    to.set_field100(from.field100);
    to.set_field101(from.field101);
    to.set_field102(&from.field102);
    to.set_field103(&from.field103);
    to.set_field104(from.field104);
    to.set_field128(from.field128);
    to.set_field129(&from.field129);
    to.set_field130(from.field130);
    to.set_field131(from.field131);
    to.set_field150(from.field150);
    to.set_field271(from.field271);
    to.set_field272(from.field272);
    to.set_field280(from.field280);
}

/// The client's side of a connection, as rpc.capnp describes it. Question 0 asks for the bootstrap capability, which the
/// server exports as 0. Each call is question 1, whose number is free again after its finish.
#[derive(Clone)]
struct Questions {
    call: Vec<u8>,
    finish: Vec<u8>,
    /// The first reply. The others are the same.
    reply: Option<Vec<u8>>,
    is_open: bool,
}

fn encoded(
    fill: impl FnOnce(message::Builder<'_>) -> capnp::Result<()>,
) -> Result<Vec<u8>, Failure> {
    let mut builder = capnp::message::Builder::new_default();
    fill(builder.init_root())?;
    Ok(capnp::serialize::write_message_to_words(&builder))
}

fn finish(question: u32) -> Result<Vec<u8>, Failure> {
    encoded(|message| {
        let mut finish = message.init_finish();
        finish.set_question_id(question);
        finish.set_release_result_caps(false);
        Ok(())
    })
}

fn dialogue() -> Result<Questions, Failure> {
    let call = encoded(|message| {
        let mut call = message.init_call();
        call.set_question_id(1);
        call.set_interface_id(benchmark::Client::TYPE_ID);
        call.reborrow().init_target().set_imported_cap(0);
        let params = call.init_params().init_content();
        let mut params: benchmark::say_params::Builder<'_> = params.init_as();
        fill(
            &BenchmarkMessage::request(),
            params.reborrow().init_message(),
        );
        Ok(())
    })?;
    Ok(Questions {
        call,
        finish: finish(1)?,
        reply: None,
        is_open: false,
    })
}

/// Returns the length of the message at the beginning, if all of it is there. In front of its segments are their number, less
/// one, and the number of words in each, up to a whole word.
fn len(input: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let bytes = input.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes) as usize)
    };
    let segments = number(0)? + 1;
    let mut len = (4 + 4 * segments).next_multiple_of(8);
    for segment in 0..segments {
        len += 8 * number(4 + 4 * segment)?;
    }
    (input.len() >= len).then_some(len)
}

/// Checks a reply to a call.
fn read(mut bytes: &[u8]) -> Result<(), Failure> {
    let options = capnp::message::ReaderOptions::new();
    let message = capnp::serialize::read_message(&mut bytes, options)?;
    let message::Return(returned) = message.get_root::<message::Reader<'_>>()?.which()? else {
        return Err("the server sends no return".into());
    };
    let return_::Results(results) = returned?.which()? else {
        return Err("the server sends no results".into());
    };
    let results: benchmark::say_results::Reader<'_> = results?.get_content().get_as()?;
    let message = results.get_message()?;
    check(message.get_field1()?.to_str()?, message.get_field2())
}

impl Dialogue for Questions {
    fn open(&mut self, out: &mut Vec<u8>) {
        let bootstrap = encoded(|message| {
            message.init_bootstrap().set_question_id(0);
            Ok(())
        });
        for message in [bootstrap, finish(0)] {
            out.extend(message.expect("it has no pointers that could be wrong"));
        }
    }

    fn call(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.call);
    }

    fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool), String> {
        let Some(len) = len(input) else {
            return Ok((0, false));
        };
        if !self.is_open {
            self.is_open = true;
            return Ok((len, false));
        }
        let come = &input[..len];
        match &self.reply {
            Some(reply) if reply == come => {}
            Some(_) => return Err("the server answers something else than before".into()),
            None => {
                read(come).map_err(|error| error.to_string())?;
                self.reply = Some(come.into());
            }
        }
        out.extend_from_slice(&self.finish);
        Ok((len, true))
    }
}

struct Client(benchmark::Client);

impl Caller for Client {
    async fn call(&mut self) -> Result<(), Failure> {
        let mut request = self.0.say_request();
        fill(&BenchmarkMessage::request(), request.get().init_message());
        let reply = request.send().promise.await?;
        let message = reply.get()?.get_message()?;
        check(message.get_field1()?.to_str()?, message.get_field2())
    }
}

async fn connect(addr: SocketAddr) -> Result<Client, Failure> {
    let network = network(TcpStream::connect(addr).await?, Side::Client)?;
    let mut system = RpcSystem::new(network, None);
    let client = system.bootstrap(Side::Server);
    tokio::task::spawn_local(system);
    Ok(Client(client))
}

fn main() -> Result<(), Box<dyn Error>> {
    run(serve, dialogue, connect)
}
