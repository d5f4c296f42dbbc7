#!/bin/sh
# Makes agent.wav and caller.wav: a made-up conversation by speech synthesis,
# 16 kHz mono 16-bit, both of the same length. Needs espeak-ng and sox.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { # who number voice text
    espeak-ng -v "$3" -s 165 -w "$work/raw.wav" "$4"
    sox "$work/raw.wav" -r 16000 -c 1 -b 16 "$work/$1-$2.wav" norm -6
}
say agent 1 en-us "Good morning, harbour line ferries, how can I help you?"
say caller 1 en-gb+f3 "Hello, I would like to take the night ferry on Thursday, with one car."
say agent 2 en-us "With pleasure. Is it a van, or a car of normal height?"
say caller 2 en-gb+f3 "A small car. And could we have a cabin with a window, please?"
say agent 3 en-us "There are three left on deck seven. I will hold one of them for you."
say caller 3 en-gb+f3 "Wonderful, thank you very much. Goodbye."

length() { soxi -s "$1"; }
# Turns in order; the second answer of the agent begins before the caller is done.
agent=0; caller=0
place() { # who number start-in-samples
    sox "$work/$1-$2.wav" "$work/$1-$2-placed.wav" pad "${3}s" 0
}
at=8000; place agent 1 $at
at=$((at + $(length "$work/agent-1.wav") + 6400)); place caller 1 $at
at=$((at + $(length "$work/caller-1.wav") - 8000)); place agent 2 $at
at=$((at + $(length "$work/agent-2.wav") + 8000)); place caller 2 $at
at=$((at + $(length "$work/caller-2.wav") + 6400)); place agent 3 $at
at=$((at + $(length "$work/agent-3.wav") + 4800)); place caller 3 $at
end=$((at + $(length "$work/caller-3.wav") + 8000))
for who in agent caller; do
    sox -m -v 1 "$work/$who-1-placed.wav" -v 1 "$work/$who-2-placed.wav" -v 1 "$work/$who-3-placed.wav" "$work/$who.wav"
    sox "$work/$who.wav" -b 16 "$who.wav" pad 0 10 trim 0 "${end}s"
done
