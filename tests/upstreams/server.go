// An ordinary server with Go's net/http. It does not look at the method and reads no body.
// usage: go run server.go LOG
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
)

func main() {
	log, err := os.OpenFile(os.Args[1], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	panic(http.Serve(listener, http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		route := request.Header.Get("X-Payment-Route")
		fmt.Fprintf(log, "%s\t%s\t%s\n", request.Method, request.RequestURI, route)
		fmt.Fprintf(answer, "%s %s", request.Method, request.RequestURI)
	})))
}
