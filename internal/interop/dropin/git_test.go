package dropin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-billy/v5/memfs"
	"github.com/go-git/go-billy/v5/util"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/memory"

	"gohyper.dev/hyper/internal/lanes"
)

// serveGit serves a directory of repositories with git's own http-backend. It requires a password.
func serveGit(l *lane, root string, trouble func(http.ResponseWriter, *http.Request) bool) string {
	path, err := exec.LookPath("git")
	if err != nil {
		if os.Getenv("HYPER_REQUIRE_SERVERS") == "1" {
			l.Fatal("git is not installed")
		}
		l.Skip("git is not installed")
	}
	backend := &cgi.Handler{
		Path:   path,
		Args:   []string{"http-backend"},
		Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null",
			"REMOTE_USER=author"},
	}
	return l.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(401)
			return
		}
		if !trouble(w, r) {
			backend.ServeHTTP(w, r)
		}
	}))
}

// noTrouble is the trouble of a server that works.
func noTrouble(http.ResponseWriter, *http.Request) bool { return false }

// makeRepository makes a bare repository whose history is always the same.
func makeRepository(l *lane) (root string) {
	root = l.TempDir()
	repo, err := git.PlainInit(filepath.Join(root, "repo.git"), true)
	l.Must(err)
	l.Must(repo.Storer.SetReference(plumbing.NewSymbolicReference(plumbing.HEAD, "refs/heads/main")))
	l.Must(os.WriteFile(filepath.Join(root, "repo.git", "git-daemon-export-ok"), nil, 0o600))
	fs := memfs.New()
	work, err := git.Open(repo.Storer, fs)
	l.Must(err)
	commits(l, work, 0, 20)
	return root
}

// commits adds n commits to the current branch, numbered from first.
func commits(l *lane, repo *git.Repository, first, n int) {
	tree, err := repo.Worktree()
	l.Must(err)
	for i := first; i < first+n; i++ {
		name := fmt.Sprintf("dir%d/file%d", i%3, i)
		l.Must(util.WriteFile(tree.Filesystem, name, octets(int64(i), 20_000), 0o644))
		_, err := tree.Add(name)
		l.Must(err)
		author := &object.Signature{Name: "An Author", Email: "author@example.com",
			When: time.Unix(1_700_000_000+int64(i), 0).UTC()}
		_, err = tree.Commit(fmt.Sprintf("commit %d", i),
			&git.CommitOptions{Author: author, Committer: author})
		l.Must(err)
	}
}

// useGit makes go-git's https requests use the lane. go-git keeps its client in a global variable.
func useGit(l *lane) {
	client.InstallProtocol("https", githttp.NewClient(l.Client()))
	l.Cleanup(func() { client.InstallProtocol("https", githttp.DefaultClient) })
}

// gitAuth is the password of the server.
var gitAuth = &githttp.BasicAuth{Username: "user", Password: "secret"}

// reportRepository reports a repository's head, history and content.
func (l *lane) reportRepository(what string, repo *git.Repository) {
	l.Helper()
	head, err := repo.Head()
	l.Must(err)
	history, err := repo.Log(&git.LogOptions{})
	l.Must(err)
	n := 0
	err = history.ForEach(func(*object.Commit) error { n++; return nil })
	if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) { // expected for a shallow clone
		l.Fatal(err)
	}
	commit, err := repo.CommitObject(head.Hash())
	l.Must(err)
	files, err := commit.Files()
	l.Must(err)
	l.Report("%s: %s, %d commits", what, head, n)
	l.Must(files.ForEach(func(f *object.File) error {
		content, err := f.Reader()
		if err != nil {
			return err
		}
		defer content.Close()
		digest, size, err := lanes.Sum(content)
		l.Report("\t%s %d octets %s", f.Name, size, digest)
		return err
	}))
}

func TestGitCloneFetchAndPush(t *testing.T) { compare(t, cloneFetchAndPush) }

// cloneFetchAndPush clones a repository, fetches and pushes.
func cloneFetchAndPush(l *lane) {
	// The order of the objects in a pack varies.
	l.Masks = append(l.Masks, regexp.MustCompile(`git-receive-pack length .* body [0-9a-f]+`))
	useGit(l)
	root := makeRepository(l)
	url := serveGit(l, root, noTrouble) + "/repo.git"
	ctx := l.Context()

	remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{url}})
	refs, err := remote.ListContext(ctx, &git.ListOptions{Auth: gitAuth})
	l.Must(err)
	slices.SortFunc(refs, func(a, b *plumbing.Reference) int {
		return strings.Compare(a.String(),
			b.String())
	})
	l.Report("refs %v", refs)

	repo, err := git.CloneContext(ctx, memory.NewStorage(), memfs.New(),
		&git.CloneOptions{URL: url, Auth: gitAuth})
	l.Must(err)
	l.reportRepository("cloned", repo)
	shallow, err := git.CloneContext(ctx, memory.NewStorage(), nil,
		&git.CloneOptions{URL: url, Auth: gitAuth, Depth: 3})
	l.Must(err)
	l.reportRepository("shallow", shallow)

	commits(l, repo, 20, 5)
	l.Must(repo.PushContext(ctx, &git.PushOptions{Auth: gitAuth}))
	err = repo.PushContext(ctx, &git.PushOptions{Auth: gitAuth})
	l.Report("pushed again: %v", err)

	l.Must(shallow.FetchContext(ctx, &git.FetchOptions{Auth: gitAuth}))
	fetched, err := shallow.Reference("refs/remotes/origin/main", true)
	l.Must(err)
	l.Report("fetched %s", fetched)
	again, err := git.CloneContext(ctx, memory.NewStorage(), memfs.New(),
		&git.CloneOptions{URL: url, Auth: gitAuth})
	l.Must(err)
	l.reportRepository("cloned again", again)

	out, err := exec.Command("git", "-C", filepath.Join(root, "repo.git"), "fsck",
		"--strict").CombinedOutput()
	l.Must(err)
	l.Report("git fsck: %s", out)
}

func TestGitTrouble(t *testing.T) {
	compare(t, func(l *lane) {
		l.Loose = true
		useGit(l)
		var trouble func(http.ResponseWriter, *http.Request) bool
		url := serveGit(l, makeRepository(l), func(w http.ResponseWriter,
			r *http.Request) bool {
			return trouble != nil && trouble(w, r)
		})
		clone := func(ctx context.Context, url string, auth transport.AuthMethod) error {
			_, err := git.CloneContext(ctx, memory.NewStorage(), memfs.New(),
				&git.CloneOptions{URL: url, Auth: auth})
			return err
		}

		l.Report("missing: %v", errors.Is(clone(l.Context(), url+"/missing.git", gitAuth),
			transport.ErrRepositoryNotFound))
		l.Report("stranger: %v", errors.Is(clone(l.Context(), url+"/repo.git", nil),
			transport.ErrAuthenticationRequired))

		trouble = func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(503)
			return true
		}
		l.Report("503: %s", lanes.Kind(clone(l.Context(), url+"/repo.git", gitAuth), "plumbing"))

		// The server sends the beginning of the pack and then nothing.
		ctx, cancel := context.WithCancel(l.Context())
		defer cancel()
		for _, end := range []string{"canceled", "aborted"} {
			trouble = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != "POST" {
					return false
				}
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
				io.WriteString(w, "0008NAK\n2000\x01PACK")
				w.(http.Flusher).Flush()
				if end == "aborted" {
					panic(http.ErrAbortHandler)
				}
				time.AfterFunc(100*time.Millisecond, cancel)
				<-r.Context().Done()
				return true
			}
			if end == "aborted" {
				ctx = l.Context()
			}
			l.Fails(end, clone(ctx, url+"/repo.git", gitAuth))
		}
		l.Fails("refused", clone(l.Context(), strings.TrimSuffix(l.Refused(), "/")+"/repo.git", gitAuth))
	})
}
