// A minimal HTTP server on epoll: for each empty line in its input it sends a constant answer, with one write for each
// read. It parses nothing. Usage: bare_http PORT
#include "loop.h"

static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    "Content-Length: 12\r\n\r\nHello World!";

int main(int count, char **arguments) {
    if (count < 2) return 2;
    enum { LEN = sizeof ANSWER - 1, MOST = BUFFER / 4 };
    struct epoll_event events[EVENTS];
    char *buffer = malloc(BUFFER), *answers = malloc((size_t)LEN * MOST);
    if (!buffer || !answers) fail("malloc");
    for (size_t i = 0; i < MOST; i++) memcpy(answers + i * LEN, ANSWER, LEN);
    listen_on(arguments[1]);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(NULL);
                continue;
            }
            ssize_t len = read(fd, buffer, BUFFER);
            if (len < 0 && errno == EAGAIN) continue;
            size_t requests = 0;
            char *at = buffer, *stop = buffer + (len > 0 ? len : 0);
            while ((at = memmem(at, stop - at, "\r\n\r\n", 4))) {
                requests++;
                at += 4;
            }
            // Closes the connection of a client that does not read its answers, because it cannot store them.
            if (len <= 0 || write(fd, answers, requests * LEN) != (ssize_t)(requests * LEN)) close(fd);
        }
    }
}
