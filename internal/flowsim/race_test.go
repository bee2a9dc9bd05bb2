//go:build race

package main

// raced: everything takes ten times as long, and there is little to race for.
const raced = true
