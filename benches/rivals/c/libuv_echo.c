// A TCP echo on libuv: one loop, one read buffer for all connections, writes tried at once. Usage: libuv_echo PORT
#include <stdlib.h>
#include <string.h>
#include <uv.h>

static char buffer[65536];

struct rest {
    uv_write_t request;
    char bytes[];
};

static void closed(uv_handle_t *handle) { free(handle); }

static void written(uv_write_t *request, int status) {
    (void)status;
    free(request);
}

static void lend(uv_handle_t *handle, size_t suggested, uv_buf_t *lent) {
    (void)handle, (void)suggested;
    *lent = uv_buf_init(buffer, sizeof buffer);
}

static void got(uv_stream_t *stream, ssize_t len, const uv_buf_t *read) {
    if (len < 0) return uv_close((uv_handle_t *)stream, closed);
    if (len == 0) return;
    uv_buf_t answer = uv_buf_init(read->base, len);
    int sent = uv_try_write(stream, &answer, 1);
    if (sent < 0) sent = 0;
    if (sent == len) return;
    struct rest *rest = malloc(sizeof *rest + len - sent);
    if (!rest) abort();
    memcpy(rest->bytes, read->base + sent, len - sent);
    answer = uv_buf_init(rest->bytes, len - sent);
    uv_write(&rest->request, stream, &answer, 1, written);
}

static void connected(uv_stream_t *listener, int status) {
    uv_tcp_t *peer = malloc(sizeof *peer);
    if (status || !peer) abort();
    uv_tcp_init(listener->loop, peer);
    if (uv_accept(listener, (uv_stream_t *)peer)) return uv_close((uv_handle_t *)peer, closed);
    uv_tcp_nodelay(peer, 1);
    uv_read_start((uv_stream_t *)peer, lend, got);
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    struct sockaddr_in addr;
    uv_tcp_init(loop, &listener);
    uv_ip4_addr("127.0.0.1", atoi(arguments[1]), &addr);
    if (uv_tcp_bind(&listener, (struct sockaddr *)&addr, 0)) return 1;
    if (uv_listen((uv_stream_t *)&listener, 1024, connected)) return 1;
    return uv_run(loop, UV_RUN_DEFAULT);
}
