# syntax=docker/dockerfile:1

# The manager's image. For the same source, VERSION and SOURCE_DATE_EPOCH the binary is the same byte for byte, wherever it
# is built; 'make docker-build' passes both.
ARG GO_VERSION=1.26

FROM --platform=$BUILDPLATFORM golang:${GO_VERSION} AS build
ARG TARGETOS TARGETARCH
ARG VERSION=dev
ARG SOURCE_DATE_EPOCH=0
ENV CGO_ENABLED=0 GOFLAGS=-trimpath
WORKDIR /src

# The modules by themselves, so that a change of source does not fetch them again.
COPY go.mod go.sum ./
RUN go mod download

COPY main.go ./
COPY api/ api/
COPY controllers/ controllers/
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$VERSION" -o /out/manager . \
    && touch --date="@$SOURCE_DATE_EPOCH" /out /out/manager

FROM gcr.io/distroless/static:nonroot
LABEL org.opencontainers.image.title="servicesecurity operator" \
      org.opencontainers.image.source="https://github.com/servicesecurity/operator" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
