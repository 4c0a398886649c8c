// Command app is the only program of an image that has nothing else.
//
//	app show [ARG...]  print arguments, environment, user and directory
//	app serve PORT     answer each TCP connection with a line
//	app exit N         end with a status
package main

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2])
	case "exit":
		status, err := strconv.Atoi(os.Args[2])
		if err != nil {
			os.Exit(64)
		}
		fmt.Fprintln(os.Stderr, "app: about to end")
		os.Exit(status)
	default:
		show()
	}
}

func show() {
	fmt.Printf("args %q\n", os.Args[1:])
	env := os.Environ()
	slices.Sort(env)
	for _, e := range env {
		fmt.Println("env", e)
	}
	dir, _ := os.Getwd()
	fmt.Println("uid", os.Getuid(), "dir", dir)
}

func serve(port string) {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
	fmt.Println("app: serving")
	for {
		conn, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		fmt.Fprintln(conn, "hello from app")
		_ = conn.Close()
	}
}
