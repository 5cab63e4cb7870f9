# stem as a replica: build from the sources, then the program and its libraries alone.
#
#   docker build -t stem .
#   docker run -p 8080:8080 -v /models/smol:/model:ro stem
FROM debian:12-slim AS build
WORKDIR /src
COPY tools/install_packages.sh tools/build.sh tools/
RUN tools/install_packages.sh
COPY . .
RUN cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSTEM_TESTS=OFF -DCMAKE_INSTALL_PREFIX=/usr/local \
    && cmake --build build --target stem && cmake --install build --prefix /out

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
      libdnnl2 libhwy1 libfmt9 libpcre2-8-0 libutf8proc2 libssl3 libcpp-httplib0.11 libtomlplusplus3 liburing2 libgomp1 \
    && rm -rf /var/lib/apt/lists/* && useradd --system --uid 10001 stem
COPY --from=build /out/ /usr/local/
USER stem
EXPOSE 8080
# The container's own network is not loopback; who may reach it is decided where the port is published.
ENTRYPOINT ["stem", "serve", "--host", "0.0.0.0", "--port", "8080"]
CMD ["/model"]
