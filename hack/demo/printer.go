package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// printer writes the story, in colours where somebody sees them.
type printer struct {
	file    *os.File
	colours bool
	began   time.Time
}

func newPrinter(file *os.File) *printer {
	info, err := file.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &printer{file: file, colours: terminal && os.Getenv("NO_COLOR") == "", began: time.Now()}
}

const (
	bold  = "1"
	faint = "2"
	green = "32"
)

func (p *printer) paint(colour, text string) string {
	if !p.colours {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// write prints. Nobody is told when nobody listens.
func (p *printer) write(format string, args ...any) {
	_, _ = fmt.Fprintf(p.file, format, args...)
}

// title begins a part of the story.
func (p *printer) title(text string) {
	elapsed := fmt.Sprintf("[%3.0f s]", time.Since(p.began).Seconds())
	p.write("\n%s %s\n", p.paint(faint, elapsed), p.paint(bold, text))
}

// note says something in passing.
func (p *printer) note(format string, args ...any) {
	p.write("%s\n", p.paint(faint, fmt.Sprintf(format, args...)))
}

// fact says something that was seen.
func (p *printer) fact(format string, args ...any) {
	p.write("  %s\n", p.paint(green, fmt.Sprintf(format, args...)))
}

// output shows what a command printed.
func (p *printer) output(command, text string) {
	p.write("%s\n", p.paint(bold, "$ "+command))
	for line := range strings.Lines(strings.TrimSpace(text)) {
		p.write("  %s", line)
	}
	p.write("\n")
}
