// A backend that knows the state of its tasks without polling.
//
//	PUT /tasks/qingbo/YOUR_TASK_ID    start following this task
//	GET /tasks                        the newest state of each task
//
// Run it with: BRIDGE_URL=http://127.0.0.1:8080 PORT=3000 go run .
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// Backend stores the newest state of each task.
type Backend struct {
	bridge Bridge
	ctx    context.Context // ends with the program, not with a request
	mutex  sync.Mutex
	newest map[string]State
}

func (backend *Backend) keep(task string) {
	err := backend.bridge.Follow(backend.ctx, []string{task}, func(state State) { backend.set(task, state) })
	if err != nil && backend.ctx.Err() == nil {
		message := err.Error()
		backend.set(task, State{Task: task, Status: "refused", Error: &Failure{Message: &message}})
	}
	// The task is final. A real backend would write to its database here and download the outputs, whose links expire.
}

func (backend *Backend) set(task string, state State) {
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	backend.newest[task] = state
}

func (backend *Backend) follow(task string) {
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	if _, known := backend.newest[task]; !known {
		backend.newest[task] = State{Task: task, Status: "unknown"}
		go backend.keep(task)
	}
}

func (backend *Backend) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	task := strings.TrimPrefix(request.URL.Path, "/tasks/")
	switch {
	case request.Method == http.MethodPut && task != request.URL.Path && task != "":
		backend.follow(task)
		response.WriteHeader(http.StatusAccepted)
	case request.Method == http.MethodGet && request.URL.Path == "/tasks":
		backend.mutex.Lock()
		defer backend.mutex.Unlock()
		response.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(response).Encode(backend.newest); err != nil {
			log.Print(err)
		}
	default:
		http.NotFound(response, request)
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	bridge := Bridge{URL: setting("BRIDGE_URL", "http://127.0.0.1:8080"), Token: os.Getenv("BRIDGE_TOKEN")}
	server := &http.Server{Handler: &Backend{bridge: bridge, ctx: ctx, newest: map[string]State{}}}

	listener, err := net.Listen("tcp", "127.0.0.1:"+setting("PORT", "3000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	go func() {
		<-ctx.Done()
		if err := server.Shutdown(context.Background()); err != nil {
			log.Print(err)
		}
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}

func setting(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
